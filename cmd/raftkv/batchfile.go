package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// lineBytesMax bounds a line: a value of the largest size, every byte of it escaped, and a key.
const lineBytesMax = 4*valueSizeMax + mebibyte

// operation is one write of a batch file.
type operation struct {
	line   int
	remove bool
	key    string
	value  []byte
	lives  []raftkv.Life
}

func (o *operation) String() string {
	if o.remove {
		return "delete " + strconv.Quote(o.key)
	}
	return "put " + strconv.Quote(o.key)
}

// op is the same for the client.
func (o *operation) op() raftkv.Op {
	if o.remove {
		return raftkv.DeleteOp(o.key)
	}
	return raftkv.PutOp(o.key, o.value, o.lives...)
}

// lineError is a line that cannot be understood.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// operations reads a batch file until yield returns false.
func operations(r io.Reader, yield func(operation) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	n := 0
	for lines.Scan() {
		n++
		o, ok, err := parseLine(lines.Bytes())
		if err != nil {
			return &lineError{n, err}
		}
		if o.line = n; ok && !yield(o) {
			return nil
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return &lineError{n + 1, fmt.Errorf("it is longer than %d bytes", lineBytesMax)}
	}
	if err != nil {
		return fmt.Errorf("read the operations: %w", err)
	}
	return nil
}

// parseLine reads one line; ok is false if it is empty or a comment. The operation keeps nothing of line.
func parseLine(line []byte) (o operation, ok bool, err error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' {
		return o, false, nil
	}
	if line[0] == '{' {
		o, err = parseJSONLine(line)
	} else {
		o, err = parseTextLine(string(line))
	}
	if err == nil && o.key == "" {
		err = errors.New("the key is empty")
	}
	return o, err == nil, err
}

func parseTextLine(line string) (operation, error) {
	words, err := splitWords(line)
	if err != nil {
		return operation{}, err
	}
	switch {
	case words[0] == "put" && len(words) == 3:
		return operation{key: words[1], value: []byte(words[2])}, nil
	case words[0] == "delete" && len(words) == 2:
		return operation{key: words[1], remove: true}, nil
	case words[0] == "put":
		return operation{}, fmt.Errorf(`put takes a key and a value, not %d words; put "quotes" around what holds spaces`, len(words)-1)
	case words[0] == "delete":
		return operation{}, fmt.Errorf(`delete takes a key, not %d words; put "quotes" around what holds spaces`, len(words)-1)
	}
	return operation{}, fmt.Errorf("%q is no operation; write put KEY VALUE or delete KEY", words[0])
}

// splitWords splits at blanks. A word in double quotes may hold anything, with the escapes of Go: \" \\ \n \t \x00 \u00e9.
func splitWords(line string) ([]string, error) {
	const blanks = " \t"
	var words []string
	for rest := strings.TrimLeft(line, blanks); rest != ""; rest = strings.TrimLeft(rest, blanks) {
		if rest[0] != '"' {
			end := strings.IndexAny(rest, blanks)
			if end < 0 {
				end = len(rest)
			}
			if strings.Contains(rest[:end], `"`) {
				return nil, fmt.Errorf(`%s: a quote within a word; put "quotes" around the whole word, and \" within`, rest[:end])
			}
			words, rest = append(words, rest[:end]), rest[end:]
			continue
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return nil, fmt.Errorf("%.40s: the quotes do not close, or there is an unknown escape", rest)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%.40s: %w", quoted, err)
		}
		words, rest = append(words, word), rest[len(quoted):]
		if rest != "" && !strings.ContainsRune(blanks, rune(rest[0])) {
			return nil, fmt.Errorf("%.40s: there must be a blank behind a quoted word", quoted)
		}
	}
	return words, nil
}

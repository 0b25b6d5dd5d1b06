package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonLine is an operation in JSON: what scan prints, with an operation.
type jsonLine struct {
	Op string `json:"op"`
	item
}

// jsonNames are the names of jsonLine.
var jsonNames = []string{"op", "key", "value", "value_base64", "create_revision", "mod_revision", "version", "ttl_ms", "lease"}

func parseJSONLine(line []byte) (operation, error) {
	if err := checkJSON(line); err != nil {
		return operation{}, err
	}
	d := json.NewDecoder(bytes.NewReader(line))
	var in jsonLine
	if err := d.Decode(&in); err != nil {
		return operation{}, notJSON(err)
	}
	if d.More() {
		return operation{}, errors.New("there is more behind the JSON object")
	}
	o := operation{key: in.Key}
	if in.TTLMs < 0 {
		return o, errors.New(`"ttl_ms" must be more than 0`)
	}
	lease := uint64(0)
	if in.Lease != "" {
		id, err := parseLease(in.Lease)
		if err != nil {
			return o, err
		}
		lease = uint64(id)
	}
	o.lives = livesOf(uint64(in.TTLMs), lease)
	switch {
	case in.Op == "delete" && (in.Value != nil || in.ValueBase64 != nil):
		return o, errors.New("a delete takes no value")
	case in.Op == "delete" && len(o.lives) > 0:
		return o, errors.New("a delete takes no ttl_ms and no lease")
	case in.Op == "delete":
		o.remove = true
	case in.Op != "put" && in.Op != "":
		return o, fmt.Errorf(`"op" is %q; it must be "put" or "delete"`, in.Op)
	case (in.Value == nil) == (in.ValueBase64 == nil):
		return o, errors.New(`a put needs either "value" or "value_base64"`)
	case in.Value != nil:
		o.value = []byte(*in.Value)
	default:
		var err error
		if o.value, err = base64.StdEncoding.DecodeString(*in.ValueBase64); err != nil {
			return o, fmt.Errorf("value_base64: %w", err)
		}
	}
	return o, nil
}

func notJSON(err error) error {
	return fmt.Errorf("it begins like JSON and is not the JSON of an operation: %w", err)
}

// checkJSON refuses what encoding/json would silently change: bytes that are no UTF-8 and lone surrogates become U+FFFD, of
// two fields with one name the last counts, and the case of names does not.
func checkJSON(line []byte) error {
	if !utf8.Valid(line) {
		return errors.New(`it is not valid UTF-8, which JSON must be; put bytes that are no text into "value_base64"`)
	}
	if lone := loneSurrogate(line); lone != "" {
		return fmt.Errorf(`%s is half of a surrogate pair and stands for no character; write both halves, or put the bytes into "value_base64"`, lone)
	}
	return checkNames(line)
}

// loneSurrogate returns the first \u escape that is half a surrogate pair without its other half; empty if there is none.
func loneSurrogate(line []byte) string {
	const escape = len(`\u0000`)
	unit := func(at int) (rune, bool) {
		if at+escape > len(line) || line[at] != '\\' || line[at+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(line[at+2:at+escape]), 16, 16)
		return rune(n), err == nil
	}
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' {
			continue
		}
		first, ok := unit(i)
		if !ok || !utf16.IsSurrogate(first) {
			i++ // the escaped character may be a backslash
			continue
		}
		second, ok := unit(i + escape)
		if !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return string(line[i : i+escape])
		}
		i += 2*escape - 1
	}
	return ""
}

// checkNames checks the names of the fields of an object without objects in it.
func checkNames(line []byte) error {
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil { // the brace
		return notJSON(err)
	}
	seen := make([]string, 0, len(jsonNames))
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return notJSON(err)
		}
		name, _ := token.(string) // the decoder takes nothing else here
		switch {
		case !slices.Contains(jsonNames, name):
			return fmt.Errorf("there is no field %q in an operation; use %q, in this case of letters", name, jsonNames)
		case slices.Contains(seen, name):
			return fmt.Errorf("the field %q comes twice; leave one of them", name)
		}
		seen = append(seen, name)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return notJSON(err)
		}
	}
	return nil
}

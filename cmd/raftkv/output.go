package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// choiceFlag is a flag with a few possible values. It implements pflag.Value.
type choiceFlag struct {
	value  string
	values []string
}

func newChoice(value string, values ...string) *choiceFlag {
	return &choiceFlag{value: value, values: values}
}

func (f *choiceFlag) String() string { return f.value }
func (f *choiceFlag) Type() string   { return strings.Join(f.values, "|") }

// Set takes the value of the command line.
func (f *choiceFlag) Set(v string) error {
	for _, known := range f.values {
		if v == known {
			f.value = v
			return nil
		}
	}
	return fmt.Errorf("it must be %s", strings.Join(f.values, " or "))
}

// add makes it the flag --output of a command.
func (f *choiceFlag) add(c *cobra.Command) {
	c.Flags().VarP(f, "output", "o", "form of the output")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
}

// newOutput is the flag --output of a command that prints tables.
func newOutput(c *cobra.Command) *choiceFlag {
	f := newChoice("table", "table", "json")
	f.add(c)
	return f
}

// tableRows is how many rows are aligned with each other; a long table is printed in such parts, in bounded memory.
const tableRows = 500

// table prints rows with aligned columns.
type table struct {
	w    *tabwriter.Writer
	rows int
}

func newTable(w io.Writer, columns ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(cells ...string) {
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
	if t.rows++; t.rows%tableRows == 0 {
		_ = t.w.Flush() // the error stays with the bufio.Writer below
	}
}

func (t *table) end() error { return t.w.Flush() }

// printer is where a command prints to. It keeps the first error until flush.
type printer struct {
	*bufio.Writer
	json *json.Encoder
}

func newPrinter(cmd *cobra.Command) *printer {
	w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	p := &printer{Writer: w, json: json.NewEncoder(w)}
	p.json.SetEscapeHTML(false)
	return p
}

// object prints v as one line of JSON.
func (p *printer) object(v any) error { return p.json.Encode(v) }

// flush joins the error of printing with err, which is more important.
func (p *printer) flush(err error) error {
	if flushed := p.Flush(); err == nil && flushed != nil {
		return fmt.Errorf("print: %w", flushed)
	}
	return err
}

// How much of a value a table shows: of text, and of anything else, whose bytes take more room.
const (
	cellTextBytes  = 64
	cellOtherBytes = 24
)

// cell shows bytes in a table: text as it is, anything else quoted, and no more than fits.
func cell(b []byte) string {
	text, plain := cut(b, cellTextBytes)
	if !plain {
		text, _ = cut(b, cellOtherBytes)
		text = strconv.Quote(text)
	}
	if len(b) > cellTextBytes || !plain && len(b) > cellOtherBytes {
		text += fmt.Sprintf("… (%d bytes)", len(b))
	}
	return text
}

// cut returns up to n bytes of b, whole runes if b is text, and whether they can stand in a table as they are.
func cut(b []byte, n int) (text string, plain bool) {
	if len(b) > n {
		shorter := b[:n]
		for len(shorter) > n-utf8.UTFMax && !utf8.Valid(shorter) {
			shorter = shorter[:len(shorter)-1]
		}
		if b = b[:n]; utf8.Valid(shorter) {
			b = shorter
		}
	}
	text = string(b)
	return text, text != "" && strings.TrimSpace(text) == text && strconv.Quote(text) == `"`+text+`"`
}

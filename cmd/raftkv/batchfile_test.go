package main

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseLine(t *testing.T) {
	for _, test := range []struct {
		line, want string // the operation and its value, or the beginning of the error
	}{
		{`put a b`, `put "a" b`},
		{"\tput   a\t b  ", `put "a" b`},
		{`put "a b" "c \"d\" \x00\n"`, "put \"a b\" c \"d\" \x00\n"},
		{`put a ""`, `put "a" `},
		{`put a #b`, `put "a" #b`},
		{`delete a`, `delete "a" `},
		{`delete "é"`, `delete "é" `},
		{`{"op":"put","key":"a","value":"b"}`, `put "a" b`},
		{` {"key":"a","value":"","mod_revision":3} `, `put "a" `},
		{`{"op":"put","key":"a","value_base64":"/w=="}`, "put \"a\" \xff"},
		{`{"op":"delete","key":"a"}`, `delete "a" `},
		{``, `nothing`},
		{`   `, `nothing`},
		{`# put a b`, `nothing`},
		{`put`, `put takes a key and a value, not 0 words`},
		{`put a`, `put takes a key and a value, not 1 words`},
		{`put a b c`, `put takes a key and a value, not 3 words`},
		{`delete`, `delete takes a key, not 0 words`},
		{`delete a b`, `delete takes a key, not 2 words`},
		{`put "" b`, `the key is empty`},
		{`PUT a b`, `"PUT" is no operation`},
		{`put a b"c`, `b"c: a quote within a word`},
		{`put a "b`, `"b: the quotes do not close`},
		{`put a "b\q"`, `"b\q": the quotes do not close, or there is an unknown escape`},
		{`put a "b"c`, `"b": there must be a blank behind a quoted word`},
		{`{"op":"put","key":"a"}`, `a put needs either "value" or "value_base64"`},
		{`{"key":"a","value":"b","value_base64":"Yg=="}`, `a put needs either`},
		{`{"op":"delete","key":"a","value":"b"}`, `a delete takes no value`},
		{`{"op":"get","key":"a"}`, `"op" is "get"`},
		{`{"op":"put","value":"b"}`, `the key is empty`},
		{`{"key":"a","valeu":"b"}`, `there is no field "valeu" in an operation; use ["op" "key" "value"`},
		{"{\"key\":\"a\",\"value\":\"\xff\"}", `it is not valid UTF-8`},
		{"{\"key\":\"\xc3\",\"value\":\"b\"}", `it is not valid UTF-8`},
		{`{"key":"a","value":"\ud800"}`, `\ud800 is half of a surrogate pair`},
		{`{"key":"a\uDC00","value":"b"}`, `\uDC00 is half of a surrogate pair`},
		{`{"key":"a","value":"\ud83d\ud83d\ude00"}`, `\ud83d is half of a surrogate pair`},
		{`{"key":"a","value":"\ud83d\ude00 \\ud800"}`, `put "a" 😀 \ud800`},
		{`{"Key":"a","value":"b"}`, `there is no field "Key" in an operation`},
		{`{"key":"a","VALUE":"b"}`, `there is no field "VALUE" in an operation`},
		{`{"key":"a","key":"c","value":"b"}`, `the field "key" comes twice`},
		{`{"key":"a","value":"b","valu\u0065":"c"}`, `the field "value" comes twice`},
		{`{"key":"a","value":{"b":1}}`, `it begins like JSON`},
		{`{"key":"a",}`, `it begins like JSON`},
		{`{"key":"a","value":"b"} x`, `there is more behind the JSON object`},
		{`{"key":"a","value_base64":"?"}`, `value_base64: illegal base64`},
		{`{`, `it begins like JSON`},
	} {
		o, ok, err := parseLine([]byte(test.line))
		got := o.String() + " " + string(o.value)
		switch {
		case err != nil:
			got = err.Error()
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("%s: %s, want %s", test.line, got, test.want)
			}
			continue
		case !ok:
			got = "nothing"
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.line, got, test.want)
		}
	}
}

func TestOperationsLines(t *testing.T) {
	var got []string
	yield := func(o operation) bool {
		got = append(got, strconv.Itoa(o.line)+" "+o.String())
		return len(got) < 3
	}
	if err := operations(strings.NewReader("put a 1\r\n\n# c\ndelete b\nput c 2\nnonsense"), yield); err != nil {
		t.Fatal(err)
	}
	if want := `1 put "a",4 delete "b",5 put "c"`; strings.Join(got, ",") != want {
		t.Errorf("%v, want %s", got, want)
	}
	err := operations(strings.NewReader("put a 1\nnonsense\n"), func(operation) bool { return true })
	if err == nil || err.Error() != `line 2: "nonsense" is no operation; write put KEY VALUE or delete KEY` {
		t.Error(err)
	}
	err = operations(strings.NewReader("put a 1\nput b "+strings.Repeat("x", lineBytesMax)), func(operation) bool { return true })
	if err == nil || !strings.HasPrefix(err.Error(), "line 2: it is longer than") {
		t.Error(err)
	}
}

// Whatever a line holds, it is an operation with a key, nothing, or an error; and an operation can be written in every form again.
func FuzzParseLine(f *testing.F) {
	for _, line := range []string{`put a b`, `put "a\x00" "b c"`, `delete a`, `{"op":"put","key":"a","value":"b"}`, `{"key":"a","value_base64":"/w=="}`, `# x`, `put "a`, `{`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		o, ok, err := parseLine(line)
		if err != nil || !ok {
			if ok {
				t.Fatalf("%q: an operation and the error %v", line, err)
			}
			return
		}
		if o.key == "" {
			t.Fatalf("%q: an operation without a key", line)
		}
		forms := []string{"put " + strconv.Quote(o.key) + " " + strconv.Quote(string(o.value))}
		if utf8.ValidString(o.key) {
			key, err := json.Marshal(o.key)
			if err != nil {
				t.Fatal(err)
			}
			forms = append(forms, `{"key":`+string(key)+`,"value_base64":"`+base64.StdEncoding.EncodeToString(o.value)+`"}`)
		}
		if o.remove {
			forms = []string{"delete " + strconv.Quote(o.key)}
		}
		for _, form := range forms {
			again, ok, err := parseLine([]byte(form))
			if err != nil || !ok || again.key != o.key || string(again.value) != string(o.value) || again.remove != o.remove {
				t.Fatalf("%q written as %s: %v %v", line, form, again, err)
			}
		}
	})
}

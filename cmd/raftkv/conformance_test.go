package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// TestConformance holds every client of this repository but the TypeScript SDK, which has a test of its own, to conformance/cases.json.
func TestConformance(t *testing.T) {
	b, err := os.ReadFile("../../conformance/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []conformanceCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	configs := startCluster(t, 3, 4)
	var endpoints, native []string
	for _, c := range configs {
		endpoints = append(endpoints, hostPort("127.0.0.1", c.Port))
		native = append(native, hostPort("127.0.0.1", c.GRPCPort))
	}
	open := func(endpoints []string, options ...raftkv.Option) *raftkv.Client {
		client, err := raftkv.Open(t.Context(), endpoints, options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	for name, driver := range map[string]conformanceDriver{
		"sdk-connect":     &sdkDriver{client: open(endpoints), leases: map[uint64]*raftkv.Lease{}},
		"sdk-grpc":        &sdkDriver{client: open(endpoints, raftkv.WithGRPC()), leases: map[uint64]*raftkv.Lease{}},
		"sdk-grpc-native": &sdkDriver{client: open(native, raftkv.WithGRPC()), leases: map[uint64]*raftkv.Lease{}},
		"rest":            &restDriver{client: http.DefaultClient, base: "http://" + endpoints[1]},
		"command-line":    &commandDriver{endpoints: strings.Join(endpoints, ",")},
	} {
		t.Run(name, func(t *testing.T) {
			for i, c := range cases {
				t.Run(c.Name, func(t *testing.T) { c.run(t, driver, fmt.Sprintf("{%s-%d}/", name, i)) })
			}
		})
	}
}

// conformanceCase is one of conformance/cases.json; its README says what the fields are.
type conformanceCase struct {
	Name  string
	Steps []struct {
		Do   map[string]map[string]any
		Want map[string]any
		Save string
	}
}

// conformanceDriver does one operation with a client. Its arguments are as JSON has them, with keys as they are. The answer is one, too; saved is the revision or lease.
// What is refused has its reason instead.
type conformanceDriver interface {
	do(t *testing.T, operation string, arguments map[string]any) (answer map[string]any, saved uint64, reason string)
}

func (c *conformanceCase) run(t *testing.T, driver conformanceDriver, prefix string) {
	saved := make(map[string]uint64)
	for i, step := range c.Steps {
		for operation, arguments := range step.Do {
			at := prefix
			if arguments["spread"] == true {
				at = ""
			}
			answer, save, reason := driver.do(t, operation, fill(arguments, at, saved).(map[string]any))
			if reason != "" {
				answer = map[string]any{"error": reason}
			}
			if got, want := bare(t, answer, at), bare(t, step.Want, at); !reflect.DeepEqual(got, want) {
				t.Fatalf("step %d: %s %v\nanswers %v\nwant    %v", i, operation, arguments, got, want)
			}
			if step.Save != "" {
				saved[step.Save] = save
			}
		}
	}
}

// fill puts in what stands for something else: prefixes of keys, saved numbers, long texts. It leaves v as it is.
func fill(v any, prefix string, saved map[string]uint64) any {
	switch v := v.(type) {
	case map[string]any:
		if text, ok := v["repeat"].(string); ok {
			return strings.Repeat(text, int(v["times"].(float64)))
		}
		filled := make(map[string]any)
		for name, field := range v {
			if name == "spread" {
				continue
			}
			field = fill(field, prefix, saved)
			if name == "key" || name == "prefix" {
				field = prefix + field.(string)
			}
			filled[name] = field
		}
		return filled
	case []any:
		filled := make([]any, len(v))
		for i := range v {
			filled[i] = fill(v[i], prefix, saved)
		}
		return filled
	case string:
		if n, ok := saved[strings.TrimPrefix(v, "$")]; ok && v[0] == '$' {
			return n // ids of leases are longer than a float64
		}
	}
	return v
}

// bare is an answer as it looks after a way through JSON, without the prefix of keys.
func bare(t *testing.T, answer map[string]any, prefix string) (plain map[string]any) {
	t.Helper()
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	if prefix != "" {
		b = []byte(strings.ReplaceAll(string(b), `"`+prefix, `"`))
	}
	if err := json.Unmarshal(b, &plain); err != nil {
		t.Fatal(err)
	}
	return plain
}

// Fields of arguments.

func textOf(a map[string]any, name string) string { s, _ := a[name].(string); return s }

func numberOf(a map[string]any, name string) uint64 {
	if n, ok := a[name].(float64); ok {
		return uint64(n)
	}
	n, _ := a[name].(uint64)
	return n
}

func listOf(a map[string]any, name string) (list []map[string]any) {
	all, _ := a[name].([]any)
	for _, v := range all {
		list = append(list, v.(map[string]any))
	}
	return list
}

func valueOf(t *testing.T, a map[string]any) []byte {
	t.Helper()
	if text, ok := a["value64"].(string); ok {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return []byte(textOf(a, "value"))
}

// found is the answer to a get.
func found(value []byte, version uint64) map[string]any {
	if utf8.Valid(value) {
		return map[string]any{"value": string(value), "version": version}
	}
	return map[string]any{"value64": value, "version": version}
}

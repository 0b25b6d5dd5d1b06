// Package raftkv_test checks the layout of the repository.
package raftkv_test

import (
	"bufio"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/raftkv/raftkv/"

// mayImport says which packages of this module a package may import. A prefix stands for everything below it. What is not listed may not
// import anything of ours.
var mayImport = map[string][]string{
	"gen":                {"gen"},
	"raftnode/placement": {"gen"},
	"raftnode/simfs":     {"gen"},
	// What tests plant in the code and where they end processes: names that the compiler removes. They import nothing.
	"raftnode/planted":         nil,
	"raftnode/failpoint":       nil,
	"raftnode/planted/mutants": {"raftnode/planted"},
	"raftnode/logstore":        {"gen", "raftnode/placement", "raftnode/planted", "raftnode/failpoint"},
	"raftnode/state":           {"gen", "raftnode/placement", "raftnode/planted", "raftnode/failpoint"},
	"raftnode/transport":       {"gen", "raftnode/placement", "raftnode/planted"},
	"raftnode/replica":         {"gen", "raftnode/placement", "raftnode/planted"},
	"raftnode/watch":           {"gen", "raftnode/placement", "raftnode/planted", "raftnode/state"},
	"raftnode": {
		"gen", "raftnode/placement", "raftnode/planted", "raftnode/failpoint", "raftnode/logstore", "raftnode/state", "raftnode/transport", "raftnode/replica",
		"raftnode/watch",
	},
	"raftnode/example":  {"raftnode", "raftnode/placement"},
	"raftnode/nodetest": {"gen", "raftnode", "raftnode/placement", "raftnode/simfs", "raftnode/logstore", "raftnode/state", "raftnode/transport", "raftnode/replica"},
	"service":           {"gen", "raftnode", "raftnode/placement"},
	"sdk/go":            {"gen", "raftnode/placement"},
	"sdk/go/raftkvtest": {"gen", "raftnode/placement", "sdk/go"},
	"sdk/go/recipes":    {"sdk/go"},
	"bench":             {"gen", "sdk/go"},
	"cmd/raftkv":        {"gen", "raftnode", "raftnode/placement", "raftnode/logstore", "raftnode/state", "service", "sdk/go", "sdk/go/recipes", "bench"},

	// A program of its own beside nodetest, whose checkers it uses. Its clients are generated code: what it tries is the contract, not an SDK.
	"raftnode/nodetest/nemesis": {"gen", "raftnode/nodetest", "raftnode/placement"},
}

// testsMayImport is what tests may import beyond that: the simulated disk below the engines, everything below in the programs.
var testsMayImport = map[string][]string{
	"raftnode/logstore": {"raftnode/simfs"},
	"raftnode/state":    {"raftnode/simfs"},
	"raftnode":          {"raftnode/simfs"},
	"sdk/go":            {"sdk/go/raftkvtest", "sdk/go/recipes"},
	"sdk/go/recipes":    {"sdk/go/raftkvtest"},
	"bench":             {"sdk/go/raftkvtest"},
	// Its tests find every name of a failpoint killed, and the stand-in for clusters no different from nodes.
	"cmd/raftkv": {"raftnode/failpoint", "sdk/go/raftkvtest"},
}

type goPackage struct {
	ImportPath                         string
	Dir                                string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p goPackage
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// A package imports only what is below it.
func TestImportOrder(t *testing.T) {
	for _, p := range packages(t) {
		own := strings.TrimPrefix(p.ImportPath, module)
		rule := own
		if strings.HasPrefix(own, "gen/") {
			rule = "gen"
		}
		allowed, listed := mayImport[rule]
		if !listed && len(p.GoFiles) > 0 {
			t.Errorf("%s is not in the list of packages: say in layout_test.go what it may import", own)
		}
		check := func(imports, allowed []string) {
			for _, i := range imports {
				dep, ours := strings.CutPrefix(i, module)
				if !ours || dep == own {
					continue
				}
				if !slices.ContainsFunc(allowed, func(a string) bool { return dep == a || a == "gen" && strings.HasPrefix(dep, "gen/") }) {
					t.Errorf("%s may not import %s", own, dep)
				}
			}
		}
		check(p.Imports, allowed)
		check(append(p.TestImports, p.XTestImports...), append(slices.Clone(allowed), testsMayImport[rule]...))
	}
}

// longFiles and longFunctions are the exceptions to the bounds on size. They may shrink and not grow.
var (
	longFiles     = map[string]int{}
	longFunctions = map[string]int{}
)

const (
	fileLinesMax     = 500
	functionLinesMax = 70
)

var function = regexp.MustCompile(`^func .*\{$`)

// Files are under 500 lines and functions under 70, so that each has one subject.
func TestSizes(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains([]string{"dist", "gen", "node_modules", "third_party"}, d.Name()) || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return fs.SkipDir
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".ts" {
			return nil
		}
		return checkSizes(t, path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkSizes(t *testing.T, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	line, start, name := 0, 0, ""
	s := bufio.NewScanner(f)
	for s.Scan() {
		line++
		switch text := s.Text(); {
		case function.MatchString(text):
			start, name = line, text
		case text == "}" && start > 0:
			if n := line - start; n > max(functionLinesMax, longFunctions[path+" "+name]) && !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s:%d: a function of %d lines, at most %d: %s", path, start, n, functionLinesMax, name)
			}
			start = 0
		}
	}
	if line > max(fileLinesMax, longFiles[path]) {
		t.Errorf("%s has %d lines, at most %d", path, line, fileLinesMax)
	}
	return s.Err()
}

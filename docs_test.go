package raftkv_test

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeBlock  = regexp.MustCompile("(?ms)^```.*?^```[ \t]*$")
	codeSpan   = regexp.MustCompile("`[^`\n]*`")
	inlineLink = regexp.MustCompile(`\]\(([^()\s]+)(?:\s+"[^"]*")?\)`)
	reference  = regexp.MustCompile(`(?m)^\[[^\]]+\]:\s+(\S+)`)
	heading    = regexp.MustCompile(`(?m)^#{1,6}[ \t]+(.+?)[ \t]*#*$`)
	linkText   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// pages are the files whose links are checked: those at the top, docs, and every DESIGN.md and README.md.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "third_party"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		if dir := filepath.Dir(path); dir == "." || dir == "docs" || d.Name() == "DESIGN.md" || d.Name() == "README.md" {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// links are the targets of the links of a page that are within the repository.
func links(text string) (targets []string) {
	text = codeSpan.ReplaceAllString(codeBlock.ReplaceAllString(text, ""), "``")
	for _, form := range []*regexp.Regexp{inlineLink, reference} {
		for _, m := range form.FindAllStringSubmatch(text, -1) {
			if u, err := url.Parse(m[1]); err != nil || u.Scheme == "" {
				targets = append(targets, m[1])
			}
		}
	}
	return targets
}

// anchors are the names of the headings of a page, as GitHub makes them: in lower case, spaces as hyphens, the second of a name with -1.
func anchors(text string) map[string]bool {
	names, count := make(map[string]bool), make(map[string]int)
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		title := linkText.ReplaceAllString(m[1], "$1")
		name := strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
		n := count[name]
		count[name]++
		if n > 0 {
			name += "-" + string(rune('0'+n))
		}
		names[name] = true
	}
	return names
}

// broken says what is wrong with a link of a page; empty if nothing is.
func broken(page, target string) string {
	path, anchor, _ := strings.Cut(target, "#")
	path, err := url.PathUnescape(path)
	if err != nil {
		return "cannot be read"
	}
	file := page
	if path != "" {
		file = filepath.Join(filepath.Dir(page), path)
	}
	if strings.HasPrefix(path, "/") || strings.HasPrefix(file, "..") {
		return "leaves the repository"
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return "leads nowhere"
	case anchor == "" || filepath.Ext(file) != ".md" && !info.IsDir():
		return ""
	case info.IsDir():
		return "has an anchor in a folder"
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "cannot be followed"
	}
	if !anchors(string(content))[anchor] {
		return "has an anchor that is no heading there"
	}
	return ""
}

// Every relative link and every anchor of the documentation leads somewhere.
func TestLinks(t *testing.T) {
	total, all := 0, pages(t)
	for _, page := range all {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range links(string(content)) {
			total++
			if why := broken(page, target); why != "" {
				t.Errorf("%s: the link to %s %s", page, target, why)
			}
		}
	}
	if len(all) < 10 || total < 30 {
		t.Errorf("only %d links in %d pages were found", total, len(all))
	}
}

// The check finds what is broken, and nothing in code.
func TestBrokenLinksAreFound(t *testing.T) {
	page := "# A title\n[a](b.md) `[no](link)` ![i](i.png \"t\") <x> [w](https://example.org/x) [here](#a-title)\n```\n[no](code)\n# no heading\n```\n[r]: c.md\n"
	if got := strings.Join(links(page), " "); got != "b.md i.png #a-title c.md" {
		t.Errorf("links: %s", got)
	}
	if got := anchors("# Is it `all` right?\n## [Logs](x) & more\n# Twice\n# Twice\n```\n# code\n```\n"); len(got) != 4 || !got["is-it-all-right"] || !got["logs--more"] || !got["twice-1"] {
		t.Errorf("anchors: %v", got)
	}
	for target, want := range map[string]string{
		"operations.md": "", "operations.md#alerts": "", "#documentation": "", "../docs": "", "../go.mod#L1": "",
		"none.md": "leads nowhere", "operations.md#none": "has an anchor that is no heading there", "../..": "leaves the repository",
	} {
		if got := broken("docs/README.md", target); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

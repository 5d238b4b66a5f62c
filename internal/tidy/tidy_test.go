package tidy

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// goFiles calls fn with every Go file, its path relative to the root.
func goFiles(t *testing.T, fn func(rel string)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") && rel != "." {
			return filepath.SkipDir
		}
		if strings.HasSuffix(rel, ".go") {
			n++
			fn(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil || n < 50 {
		t.Fatalf("found %d files: %v", n, err)
	}
}

// room is the first part of a package's path.
func room(pkg string) string { r, _, _ := strings.Cut(pkg, "/"); return r }

var tiers = []string{"mx", "proxy", "backend", "rebalance"}

// open are the contracts that other tiers may import.
var open = []string{"backend/control"}

// mayImport is the house rule: mains → deploy → tiers → contracts → internal →
// standard library; never tier to tier, never upward.
func mayImport(from, to string) bool {
	switch room(to) {
	case "internal":
		return true
	case "director":
		return room(from) != "internal"
	case "deploy":
		return from == "." || room(from) == "deploy"
	}
	if !slices.Contains(tiers, room(to)) {
		return false
	}
	switch room(from) {
	case "deploy":
		return true
	case room(to):
		return true
	case "director":
		// The admin API asks backends; the contract itself imports nobody.
		return to == "backend/control" && (from == "director/server" || from == "director/admin")
	}
	return slices.Contains(tiers, room(from)) && slices.Contains(open, to)
}

func TestImportDirections(t *testing.T) {
	fset := token.NewFileSet()
	goFiles(t, func(rel string) {
		if strings.HasSuffix(rel, "_test.go") {
			return
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, rel), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		from := filepath.ToSlash(filepath.Dir(rel))
		for _, imp := range f.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if to, ok := strings.CutPrefix(path, "waypost/"); ok && !mayImport(from, to) {
				t.Errorf("%s imports %s", rel, to)
			}
			if strings.HasPrefix(path, "go.etcd.io/") && !strings.HasPrefix(from, "director/etcd") {
				t.Errorf("%s imports %s: only director/etcd does", rel, path)
			}
		}
	})
}

func TestDirectorIsPure(t *testing.T) {
	for _, path := range []string{"os", "net", "net/http", "io", "log/slog"} {
		for _, f := range must(filepath.Glob(filepath.Join(root, "director", "*.go"))) {
			if b := must(os.ReadFile(f)); !strings.HasSuffix(f, "_test.go") && bytes.Contains(b, []byte("\t\""+path+"\"\n")) {
				t.Errorf("%s imports %s", f, path)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestFileLength: no file grows past what one sitting reads.
func TestFileLength(t *testing.T) {
	const most = 600
	goFiles(t, func(rel string) {
		if n := bytes.Count(must(os.ReadFile(filepath.Join(root, rel))), []byte("\n")); n > most {
			t.Errorf("%s has %d lines, over %d", rel, n, most)
		}
	})
}

// TestPackageComments: every package begins with a comment that tells its contract.
func TestPackageComments(t *testing.T) {
	has := make(map[string]bool)
	goFiles(t, func(rel string) {
		if strings.HasSuffix(rel, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, rel), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		dir := filepath.Dir(rel)
		has[dir] = has[dir] || f.Doc != nil
	})
	for dir, ok := range has {
		if !ok {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

// TestTopLevel: a newcomer finds these and nothing else.
func TestTopLevel(t *testing.T) {
	allowed := []string{"director", "backend", "mx", "proxy", "rebalance", "deploy", "internal", "docs", "main.go", "go.mod", "go.sum",
		"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci", ".git", ".gitignore", "waypost-data"}
	for _, e := range must(os.ReadDir(root)) {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s at the top level", e.Name())
		}
	}
}

// TestNoSleepInTests: tests wait for conditions.
func TestNoSleepInTests(t *testing.T) {
	goFiles(t, func(rel string) {
		if strings.HasSuffix(rel, "_test.go") && rel != "internal/tidy/tidy_test.go" && bytes.Contains(must(os.ReadFile(filepath.Join(root, rel))), []byte("time."+"Sleep(")) {
			t.Errorf("%s sleeps", rel)
		}
	})
}

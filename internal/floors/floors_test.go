package floors

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const top = "../.."

// The tree as it is keeps to the table.
func TestTree(t *testing.T) {
	found, err := Check(os.DirFS(top), "cowl", Table)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// A checker that finds nothing because it looks at nothing is the likeliest
// way for the building to lean. Each fault here must be found, and no other.
func TestFindings(t *testing.T) {
	table := []Row{
		{Path: "cmd/x"},
		{Path: "internal/high"},
		{Path: "internal/narrow", Imports: []string{"internal/low/..."}},
		{Path: "internal/low/help", Test: true},
		{Path: "internal/low/...", Pure: true, Documented: true},
		{Path: "internal/errs"},
	}
	tree := fstest.MapFS{}
	for name, text := range map[string]string{
		"cmd/x/main.go":                `// Command x runs.` + "\n" + `package main; import _ "m/internal/high"`,
		"internal/high/a.go":           `package high; import (_ "m/internal/low"; _ "m/internal/errs"; _ "m/internal/low/help"; _ "testing")`,
		"internal/high/a_test.go":      `package high; import (_ "m/internal/low/help"; _ "testing")`,
		"internal/narrow/a.go":         "// Package narrow is.\npackage narrow; import (_ \"m/internal/low/sub\"; _ \"m/internal/errs\")",
		"internal/narrow/a_test.go":    `package narrow; import (_ "m/internal/errs"; _ "m/internal/high")`,
		"internal/low/help/a.go":       "// Package help is.\npackage help; import (_ \"testing\"; _ \"m/internal/low\")",
		"internal/low/a_windows.go":    "// Package low is.\npackage low; import (_ \"m/internal/low/sub\"; _ \"os/exec\")",
		"internal/low/sub/a.go":        "// Package sub is.\npackage sub; import _ \"m/internal/narrow\"",
		"internal/low/sub/names.go":    "package sub\n\nfunc F() {}\nfunc (T) M() {}\nfunc (T) Size() {}\nfunc (u) N() {}\ntype T struct{}\ntype u struct{}\n",
		"internal/low/sub/values.go":   "package sub\n\n// Several.\nconst (\n A = 1\n B = 2\n)\nconst (\n C = 3 // three\n D = 4\n // E and F.\n E = 5\n F = 6\n)\n",
		"internal/low/sub/types.go":    "package sub\n\n// Several.\ntype (\n P int\n Q int // q\n)\n",
		"internal/errs/a.go":           "// Package errs is.\npackage errs",
		"internal/stray/a.go":          "// Package stray is.\npackage stray",
		"internal/errs/testdata/no.go": `not even Go`,
		"tools/go.mod":                 "module tools",
		"tools/tools.go":               "package tools",
	} {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	got, err := Check(tree, "m", table)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`internal/high/a.go: imports testing, which would be linked into the program`,
		`internal/high/a.go: internal/high must not import internal/low/help, which is for tests only`,
		`internal/high: no file has a doc comment "Package ..." (or "Command ...")`,
		`internal/low/a_windows.go: imports os/exec, but internal/low computes only`,
		`internal/low/sub/a.go: internal/low/sub must not import internal/narrow, which is on a floor above it`,
		`internal/low/sub/names.go:3: exported F has no comment`,
		`internal/low/sub/names.go:4: exported M has no comment`,
		`internal/low/sub/names.go:7: exported T has no comment`,
		`internal/low/sub/types.go:5: exported P has no comment`,
		`internal/low/sub/values.go:10: exported D has no comment`,
		`internal/narrow/a.go: internal/narrow must not import internal/errs, which its row in the table does not list`,
		`internal/narrow/a_test.go: internal/narrow must not import internal/high, which is on a floor above it`,
		`internal/stray: has no row in the table of internal/floors`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A row that allows what lies above it would be a hole in the floor.
func TestTableGoesDown(t *testing.T) {
	for i, row := range Table {
		if row.Holds == "" {
			t.Errorf("%s: what does it hold?", row.Path)
		}
		for _, p := range row.Imports {
			if j := slices.IndexFunc(Table, func(r Row) bool { return covers(r.Path, strings.TrimSuffix(p, "/...")) }); j <= i {
				t.Errorf("%s: may import %s, which is not on a floor below it", row.Path, p)
			}
		}
	}
}

// docs/architecture.md shows the same building.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(top + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range Table {
		if name := strings.TrimSuffix(row.Path, "/..."); !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/architecture.md does not name `%s`", name)
		}
	}
}

// Each module that go.mod requires for the program has its reason.
func TestDependenciesHaveReasons(t *testing.T) {
	mod, err := os.ReadFile(top + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile(top + "/docs/decisions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^(?:require)?\s+(\S+\.\S+/\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		if !strings.Contains(string(reasons), line[1]) {
			t.Errorf("go.mod requires %s; docs/decisions.md does not say why", line[1])
		}
	}
}

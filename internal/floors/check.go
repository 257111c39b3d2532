package floors

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// impure are the imports that Pure rows do without. time is not among them:
// formatting a time stamp needs no clock.
var impure = []string{"os", "net", "syscall", "crypto/rand", "math/rand", "golang.org/x/sys"}

// contracts are the methods that an interface documents where it is declared
// (block.Device, error, fmt.Stringer, sort.Interface): repeating the contract
// at each implementation would only blur it.
var contracts = []string{
	"ReadAt", "WriteAt", "Flush", "Discard", "WriteZeroes", "Extents", "Size", "Caps", "Close",
	"Error", "Unwrap", "Is", "String", "Len", "Less", "Swap",
}

// file is one parsed source file.
type file struct {
	name string // path in the tree
	pkg  string // its directory
	test bool
	ast  *ast.File
}

// Check reads every Go file of the tree below root and returns what it finds
// wrong, one sentence each, sorted. module is the path before "/internal/...".
func Check(root fs.FS, module string, table []Row) ([]string, error) {
	fset := token.NewFileSet()
	files, err := parse(fset, root)
	if err != nil {
		return nil, err
	}
	var found []string
	documented := map[string]bool{}
	for _, f := range files {
		found = append(found, checkImports(f, module, table)...)
		documented[f.pkg] = documented[f.pkg] || describes(f.ast)
		if i := find(table, f.pkg); i >= 0 && table[i].Documented && !f.test {
			found = append(found, checkComments(fset, f)...)
		}
	}
	for pkg, ok := range documented {
		if find(table, pkg) < 0 {
			found = append(found, fmt.Sprintf("%s: has no row in the table of internal/floors", pkg))
		}
		if !ok {
			found = append(found, fmt.Sprintf("%s: no file has a doc comment \"Package ...\" (or \"Command ...\")", pkg))
		}
	}
	slices.Sort(found)
	return found, nil
}

// skipped tells whether a directory holds nothing of the module: hidden
// directories, testdata, and modules of their own.
func skipped(root fs.FS, dir string) bool {
	base := path.Base(dir)
	_, err := fs.Stat(root, dir+"/go.mod")
	return base == "testdata" || strings.HasPrefix(base, ".") || err == nil
}

// parse reads the module's Go files.
func parse(fset *token.FileSet, root fs.FS) ([]file, error) {
	var files []file
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && skipped(root, name):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), tree})
		return nil
	})
	return files, err
}

// describes tells whether a file carries its package's doc comment.
func describes(f *ast.File) bool {
	text := f.Doc.Text()
	return strings.HasPrefix(text, "Package ") || strings.HasPrefix(text, "Command ")
}

// checkImports finds imports that the table does not allow.
func checkImports(f file, module string, table []Row) []string {
	var found []string
	i := find(table, f.pkg)
	for _, spec := range f.ast.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has seen to it
		}
		if inner, ok := strings.CutPrefix(target, module+"/"); ok {
			if why := allowed(table, f.pkg, inner, f.test); why != "" {
				found = append(found, fmt.Sprintf("%s: %s must not import %s, %s", f.name, f.pkg, inner, why))
			}
			continue
		}
		if i < 0 || f.test {
			continue
		}
		if target == "testing" && !table[i].Test {
			found = append(found, fmt.Sprintf("%s: imports testing, which would be linked into the program", f.name))
		}
		if table[i].Pure && slices.ContainsFunc(impure, func(p string) bool { return covers(p+"/...", target) }) {
			found = append(found, fmt.Sprintf("%s: imports %s, but %s computes only", f.name, target, f.pkg))
		}
	}
	return found
}

// checkComments finds exported names without a comment: types, functions,
// methods of exported types, constants and variables. A group of constants or
// variables may share the comment above it.
func checkComments(fset *token.FileSet, f file) []string {
	var found []string
	missing := func(name *ast.Ident) {
		at := fset.Position(name.Pos())
		found = append(found, fmt.Sprintf("%s:%d: exported %s has no comment", at.Filename, at.Line, name.Name))
	}
	for _, decl := range f.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && reachable(d) {
				missing(d.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				for _, name := range uncommented(d, spec) {
					missing(name)
				}
			}
		}
	}
	return found
}

// reachable tells whether other packages see a function and must find its
// contract here.
func reachable(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	if slices.Contains(contracts, d.Name.Name) {
		return false
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// uncommented returns the exported names of one line of a declaration that
// neither the line nor the group comments on, nor a neighbour's comment names
// ("Min and Max bound ...").
func uncommented(d *ast.GenDecl, spec ast.Spec) []*ast.Ident {
	var names []*ast.Ident
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen.IsValid()) {
			names = append(names, s.Name)
		}
	case *ast.ValueSpec:
		if s.Doc == nil && s.Comment == nil && d.Doc == nil {
			names = append(names, s.Names...)
		}
	}
	text := valueComments(d)
	return slices.DeleteFunc(names, func(n *ast.Ident) bool {
		return !n.IsExported() || slices.Contains(text, n.Name)
	})
}

// valueComments returns the words above the lines of a group of values.
func valueComments(d *ast.GenDecl) []string {
	var words []string
	for _, spec := range d.Specs {
		if s, ok := spec.(*ast.ValueSpec); ok {
			words = append(words, strings.FieldsFunc(s.Doc.Text(), func(r rune) bool {
				return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
			})...)
		}
	}
	return words
}

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// memTree is a tree of plain files in memory. A nil file cannot be looked at.
type memTree []*memFile

type memFile struct {
	name    string
	h       Header
	content io.ReaderAt
	err     error // of Xattrs
}

func (t memTree) Walk(_ context.Context, visit func(string, File, error) error) error {
	for _, f := range t {
		if err := visit(f.name, f, nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *memFile) Header() *Header           { return &f.h }
func (f *memFile) Xattrs() ([]Xattr, error)  { return nil, f.err }
func (f *memFile) Readlink() (string, error) { return "", errors.New("no link") }
func (f *memFile) Open() (Content, error)    { return Content{ReaderAt: f.content}, nil }

func plain(name, content string, size int64) *memFile {
	return &memFile{name: name, h: Header{Mode: ModeFile | 0o644, Links: 1, Size: size}, content: strings.NewReader(content)}
}

// A disk error in the middle of a file fails the archive, unless somebody says
// that it need not: then what follows is where a reader of the archive expects
// it.
func TestUnreadableContent(t *testing.T) {
	tree := memTree{plain("./a", "whole", 5), plain("./b", strings.Repeat("x", 99), 100), plain("./c", "after", 5)}
	if _, err := Write(context.Background(), io.Discard, tree, Options{}); err == nil || !strings.Contains(err.Error(), "./b: the file is shorter") {
		t.Errorf("%v", err)
	}
	tree = append(tree, &memFile{name: "./d", h: Header{Mode: ModeFile}, err: errors.New("no attributes")}, plain("./e", "last", 4))
	var out bytes.Buffer
	var failed []string
	stats, err := Write(context.Background(), &out, tree, Options{Unreadable: func(name string, err error) error {
		failed = append(failed, name+": "+err.Error())
		return nil
	}})
	if err != nil || stats.Failed != 2 || stats.Entries != 4 || len(failed) != 2 || failed[1] != "./d: no attributes" {
		t.Errorf("%+v, %v, %q", stats, err, failed)
	}
	var names []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name+" "+strings.TrimRight(string(text), "x"))
	}
	if got := strings.Join(names, ", "); got != "./a whole, ./b "+strings.Repeat("x", 99)+"\x00, ./c after, ./e last" {
		t.Errorf("%q", got)
	}
}

// Every name of a file but the first is a hard link to that, and the archive
// remembers it no longer than there are names to come.
func TestHardLinks(t *testing.T) {
	a := &archiver{out: paxWriter{w: io.Discard}, links: map[uint64]*hardLink{}}
	for _, name := range []string{"./1", "./2", "./3"} {
		f := plain(name, "", 0)
		f.h.Ino, f.h.Links = 7, 3
		if err := a.put(name, f); err != nil {
			t.Fatal(err)
		}
		if want := name != "./3"; (a.links[7] != nil) != want {
			t.Errorf("after %s: remembered %v", name, !want)
		}
	}
}

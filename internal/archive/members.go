package archive

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// Place is a name in an archive.
type Place struct{ no int32 }

// Lookup returns what is at a path, which begins at the root. Symbolic links on the
// way are followed within the archive, the last one if follow is set.
func (a *Archive) Lookup(path string, follow bool) (Place, error) {
	p, err := fsread.Resolve(fsread.Names[Place]{
		Type: func(p Place) ext4.Mode { return ext4.Mode(a.inode(p).mode & ModeType) },
		Find: func(dir Place, name string) (Place, error) {
			no := a.find(dir.no, name)
			if no == 0 {
				return Place{}, errs.E(errs.NotFound, "no such file or directory")
			}
			return Place{no}, nil
		},
		Readlink: func(p Place) (string, error) { return a.inode(p).more.target, nil },
	}, Place{root}, path, follow)
	if err != nil && errs.Is(err, errs.NotFound) && a.damage != nil {
		err = fmt.Errorf("%w, in what can be read: %w", err, a.damage)
	}
	if err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (a *Archive) inode(p Place) *inode { return a.inodes.at(a.names.at(p.no).ino) }

// File is what is at a place.
func (a *Archive) File(p Place) File { return archived{a, p} }

// Members is what is at and below a place. A place that is no directory is a tree
// of one file, which needs a name.
//
// Directories are in the order in which the archive has their files, so that one
// that is compressed is read forwards. If something is left out of the archive's
// tree, the directory at hand is visited once more with that as its error.
type Members struct {
	Archive *Archive
	Start   Place
	Name    string
	Flat    bool // leaves out what is in the directories below
	ByName  bool // directories are in the order of their names
}

// Walk implements Tree.
func (m Members) Walk(ctx context.Context, visit func(name string, f File, err error) error) error {
	name := "./"
	if !m.Archive.isDir(m.Start.no) {
		name += m.Name
		return visit(name, m.Archive.File(m.Start), nil)
	}
	return m.walk(ctx, name, m.Start, visit)
}

// walk visits a file and, if it is a directory, what is in it.
func (m Members) walk(ctx context.Context, path string, at Place, visit func(string, File, error) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a := m.Archive
	err := visit(path, a.File(at), nil)
	if err == nil && at == m.Start && a.Err() != nil {
		err = visit(path, a.File(at), a.Err())
	}
	if err != nil || !a.isDir(at.no) || m.Flat && at != m.Start {
		return err
	}
	for _, no := range m.children(at) {
		if err := m.walk(ctx, strings.TrimSuffix(path, "/")+"/"+a.names.at(no).name, Place{no}, visit); err != nil {
			return err
		}
	}
	return nil
}

// children are the names in a directory.
func (m Members) children(dir Place) []int32 {
	a := m.Archive
	var out []int32
	for no := a.names.at(dir.no).first; no != 0; no = a.names.at(no).next {
		out = append(out, no)
	}
	order := func(x, y int32) int { return cmp.Compare(a.names.at(x).ino, a.names.at(y).ino) }
	if m.ByName {
		order = func(x, y int32) int { return strings.Compare(a.names.at(x).name, a.names.at(y).name) }
	}
	slices.SortFunc(out, order)
	return out
}

// archived is a File of an Archive.
type archived struct {
	a *Archive
	p Place
}

// Header implements File.
func (f archived) Header() *Header {
	n := f.a.inode(f.p)
	h := &Header{
		Ino: uint64(f.a.names.at(f.p.no).ino) + 1, Mode: n.mode, Links: n.links, UID: n.uid, GID: n.gid, Major: n.major, Minor: n.minor,
		Size: n.size, Mtime: n.mtime.time(), Atime: n.atime.time(), Ctime: n.ctime.time(),
	}
	if n.mode&ModeType == ModeFile {
		stored := n.size
		if n.more != nil && n.more.sparse != nil {
			stored = n.more.sparse.data
		}
		h.Allocated = stored + padding(stored)
	}
	return h
}

// Xattrs implements File.
func (f archived) Xattrs() ([]Xattr, error) {
	if n := f.a.inode(f.p); n.more != nil {
		return n.more.xattrs, nil
	}
	return nil, nil
}

// Readlink implements File.
func (f archived) Readlink() (string, error) { return f.a.inode(f.p).more.target, nil }

// Open implements File.
func (f archived) Open() (Content, error) {
	n := f.a.inode(f.p)
	c := Content{ReaderAt: &content{in: f.a.in, n: n}}
	if n.more != nil && n.more.sparse != nil {
		list := n.more.sparse
		c = Content{ReaderAt: &content{in: f.a.in, n: n, list: list, near: spanReader{code: list.code}}, Data: list.all()}
	}
	if ino := f.a.names.at(f.p.no).ino; f.a.o.Sums && ino != f.a.unread {
		c.Sum = f.a.sums.at(ino)
	}
	return c, nil
}

// content is what is in a file.
type content struct {
	in   *stream
	n    *inode
	list *spanList  // nil without holes
	near spanReader // where the last piece was found
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off >= c.n.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	if left := c.n.size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	if c.list == nil {
		if err := c.in.readAt(p, c.n.at+off); err != nil {
			return 0, err
		}
		return len(p), err
	}
	if readErr := c.sparse(p, off); readErr != nil {
		return 0, readErr
	}
	return len(p), err
}

// sparse reads what is within a file with holes.
func (c *content) sparse(p []byte, off int64) error {
	clear(p)
	if off < c.near.at.Off {
		c.near = spanReader{code: c.list.code}
	}
	end := off + int64(len(p))
	for {
		s := c.near.at
		if from, to := max(s.Off, off), min(s.Off+s.Len, end); from < to {
			if err := c.in.readAt(p[from-off:to-off], c.n.at+c.near.stored+from-s.Off); err != nil {
				return err
			}
		}
		if s.Off+s.Len >= end || !c.near.next() {
			return nil
		}
	}
}

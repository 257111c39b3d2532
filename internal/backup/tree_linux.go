package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// treeStats is what was put into an archive.
type treeStats struct {
	Entries int64 `json:"entries"`
	Skipped int64 `json:"sockets_skipped"`
}

// treeWriter archives a directory tree in a stable order. The tree must not
// change meanwhile: it is a snapshot mounted read-only.
type treeWriter struct {
	ctx   context.Context
	out   paxWriter
	root  string
	links map[uint64]string // inode to first name, of files with several
	stats treeStats
	note  func(string)
}

// writeTree writes everything at and below root, as "./", "./a", ... It fails
// on the first thing that cannot be read: an archive that lacks something
// without saying so is worse than none. Sockets, which have no content, are
// left out with a note.
func writeTree(ctx context.Context, w io.Writer, root string, note func(string)) (treeStats, error) {
	t := &treeWriter{ctx: ctx, out: paxWriter{w}, root: root, links: map[uint64]string{}, note: note}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return t.stats, pathError("stat", root, err)
	}
	if err := t.dir("./", &st); err != nil {
		return t.stats, err
	}
	return t.stats, t.out.close()
}

// path is where an entry can be read. root may be a link in /proc, which has
// to be followed: hence the joining by hand.
func (t *treeWriter) path(name string) string { return t.root + strings.TrimPrefix(name, ".") }

// dir writes a directory and what is in it. Its name ends in a slash.
func (t *treeWriter) dir(name string, st *unix.Stat_t) error {
	if err := t.put(name, tarDir, st, func(*tarEntry) error { return nil }); err != nil {
		return err
	}
	entries, err := os.ReadDir(t.path(name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.any(name + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// any writes what has the name, of whatever type.
func (t *treeWriter) any(name string) error {
	if t.ctx.Err() != nil {
		return context.Cause(t.ctx)
	}
	var st unix.Stat_t
	if err := unix.Lstat(t.path(name), &st); err != nil {
		return pathError("lstat", t.path(name), err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.dir(name+"/", &st)
	}
	if first, ok := t.links[st.Ino]; ok {
		return t.put(name, tarLink, &st, func(e *tarEntry) error { e.link = first; return nil })
	}
	if st.Nlink > 1 {
		t.links[st.Ino] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.file(name, &st)
	case unix.S_IFLNK:
		return t.put(name, tarSymlink, &st, func(e *tarEntry) (err error) {
			e.link, err = os.Readlink(t.path(name))
			return err
		})
	case unix.S_IFCHR:
		return t.put(name, tarChar, &st, device(&st))
	case unix.S_IFBLK:
		return t.put(name, tarBlockDV, &st, device(&st))
	case unix.S_IFIFO:
		return t.put(name, tarFIFO, &st, func(*tarEntry) error { return nil })
	}
	t.stats.Skipped++
	t.note(fmt.Sprintf("%s: socket left out", name))
	return nil
}

func device(st *unix.Stat_t) func(*tarEntry) error {
	return func(e *tarEntry) error {
		e.major, e.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		return nil
	}
}

// put writes an entry without content; more adds what its type has.
func (t *treeWriter) put(name string, kind byte, st *unix.Stat_t, more func(*tarEntry) error) error {
	e, err := t.entry(name, kind, st)
	if err != nil {
		return err
	}
	if err := more(e); err != nil {
		return err
	}
	t.stats.Entries++
	return t.out.entry(e, nil, nil)
}

// file writes a regular file, in sparse form if it has holes.
func (t *treeWriter) file(name string, st *unix.Stat_t) error {
	e, err := t.entry(name, tarFile, st)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(t.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	e.size = st.Size
	data, err := dataSpans(f, st)
	if err != nil {
		return err
	}
	t.stats.Entries++
	if err := t.out.entry(e, f, data); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: shorter than its size of %d bytes", name, e.size)
		}
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

// entry fills in what all types have.
func (t *treeWriter) entry(name string, kind byte, st *unix.Stat_t) (*tarEntry, error) {
	e := &tarEntry{
		name: name, kind: kind, mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid,
		mtime: time.Unix(st.Mtim.Unix()), atime: time.Unix(st.Atim.Unix()), ctime: time.Unix(st.Ctim.Unix()),
	}
	var err error
	if kind != tarLink { // the first name has brought them
		e.xattrs, err = xattrs(t.path(name))
	}
	return e, err
}

// dataSpans returns where a file has data; nil for one without holes.
func dataSpans(f *os.File, st *unix.Stat_t) ([]span, error) {
	if st.Blocks*512 >= st.Size {
		return nil, nil
	}
	spans := []span{}
	for at := int64(0); at < st.Size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole to the end
		}
		if err != nil {
			return nil, err
		}
		if at, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		spans = append(spans, span{start, min(at, st.Size) - start})
	}
	if len(spans) == 1 && spans[0] == (span{0, st.Size}) {
		return nil, nil // few blocks for its size (compressed, inline), but no hole
	}
	return spans, nil
}

// xattrs returns a file's extended attributes, those of a symlink itself.
func xattrs(path string) (map[string]string, error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("llistxattr", path, err)
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, pathError("lgetxattr "+name, path, err)
		}
		found[name] = string(value)
	}
	return found, nil
}

// grow calls get with a large enough buffer.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}

func pathError(op, path string, err error) error { return &os.PathError{Op: op, Path: path, Err: err} }

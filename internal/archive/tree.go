package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Tree is what can be archived. It must not change meanwhile.
type Tree interface {
	// Walk visits everything in the tree, a directory before what is in it, by
	// names that begin with "./". What cannot be read is visited with err set:
	// a file (f may be nil then), or a directory once more of which some
	// entries cannot be read. It ends with the first error of visit.
	Walk(ctx context.Context, visit func(name string, f File, err error) error) error
}

// File is a file of a tree, of whatever type. It is used only while it is
// visited.
type File interface {
	Header() *Header
	// Xattrs returns the extended attributes; of ACLs the form of getxattr.
	Xattrs() ([]Xattr, error)
	// Readlink returns a symbolic link's target.
	Readlink() (string, error)
	// Open returns a regular file's content, which is closed after use.
	Open() (Content, error)
}

// Header is what stat says of a file. Mode has the bits of stat(2).
type Header struct {
	Ino                 uint64
	Mode, Links         uint32
	UID, GID            uint32
	Major, Minor        uint32
	Size                int64 // bytes
	Allocated           int64 // bytes on the device
	Mtime, Atime, Ctime time.Time
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Content is what is in a regular file.
type Content struct {
	io.ReaderAt
	// Data yields where the file has data, in order; everything else is zero.
	// nil means that it has no holes. It can be called again, yields the same
	// each time, and nothing more after an error. A list would be as long as a hostile image
	// wants it to be.
	Data  iter.Seq2[Span, error]
	Close func() error
	// Sum is nil where the content would have to be read for it.
	Sum *Sum
}

// Span is a run of a file, in bytes.
type Span struct{ Off, Len int64 }

// Types of files in Header.Mode, as in stat(2).
const (
	ModeType   = 0xf000
	ModeFIFO   = 0x1000
	ModeChar   = 0x2000
	ModeDir    = 0x4000
	ModeBlock  = 0x6000
	ModeFile   = 0x8000
	ModeLink   = 0xa000
	ModeSocket = 0xc000
)

// Options say what to do about what cannot be archived.
type Options struct {
	// Note is told of what is left out for good reasons: sockets. It may be nil.
	Note func(text string)
	// Unreadable is asked about every file that cannot be read. If it returns
	// nil the archive goes on without the file; of one that failed in the
	// middle, with zeroes for the rest. By default the first is the end: an
	// archive that lacks something without saying so is worse than none.
	Unreadable func(name string, err error) error
}

// Stats is what was put into an archive.
type Stats struct {
	Entries int64 `json:"entries"`
	Skipped int64 `json:"sockets_skipped"`
	Failed  int64 `json:"unreadable,omitempty"`
}

// Write archives a tree. Sockets, which have no content, are left out.
func Write(ctx context.Context, w io.Writer, tree Tree, o Options) (Stats, error) {
	a := &archiver{out: paxWriter{w: w}, o: o, links: map[uint64]*hardLink{}}
	err := tree.Walk(ctx, func(name string, f File, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return a.failed(name, err)
		}
		return a.put(name, f)
	})
	if err != nil {
		return a.stats, err
	}
	return a.stats, a.out.close()
}

// archiver is one archive on its way.
type archiver struct {
	out   paxWriter
	o     Options
	links map[uint64]*hardLink // by inode, of files with several names
	stats Stats
}

// hardLink is a file that is in the archive and has more names to come.
type hardLink struct {
	name string // the first
	left uint32
}

// put archives one file.
func (a *archiver) put(name string, f File) error {
	h := f.Header()
	e := entry{Header: h, name: name, kind: kinds[h.Mode&ModeType]}
	if e.kind == 0 {
		a.stats.Skipped++
		a.note(name + ": socket left out")
		return nil
	}
	if e.kind == tarDir && name[len(name)-1] != '/' {
		e.name += "/"
	}
	if a.again(&e) {
		return a.write(&e, Content{})
	}
	content, err := read(&e, f)
	if err != nil {
		return a.failed(name, err)
	}
	if h.Links > 1 && e.kind != tarDir {
		a.links[h.Ino] = &hardLink{name: e.name, left: h.Links - 1}
	}
	err = a.write(&e, content)
	if content.Close != nil {
		err = errors.Join(err, content.Close())
	}
	return err
}

// kinds are tar's types by the bits of a mode. Sockets have none.
var kinds = map[uint32]byte{ModeFIFO: tarFIFO, ModeChar: tarChar, ModeDir: tarDir, ModeBlock: tarBlockDV, ModeFile: tarFile, ModeLink: tarSymlink}

// again makes an entry a hard link if the archive has the file already.
func (a *archiver) again(e *entry) bool {
	l := a.links[e.Ino]
	if l == nil || e.kind == tarDir {
		return false
	}
	e.kind, e.link = tarLink, l.name
	if l.left--; l.left == 0 {
		delete(a.links, e.Ino)
	}
	return true
}

// read gets what a file has beyond its header.
func read(e *entry, f File) (c Content, err error) {
	if e.xattrs, err = f.Xattrs(); err != nil {
		return c, err
	}
	switch e.kind {
	case tarSymlink:
		e.link, err = f.Readlink()
	case tarFile:
		if c, err = f.Open(); err == nil && c.Data != nil {
			e.sparse, err = measure(c.Data, e.Size)
		}
	}
	if err != nil && c.Close != nil {
		err = errors.Join(err, c.Close())
	}
	return c, err
}

// write writes an entry. If the content cannot be read, the entry has zeroes
// in its place by then.
func (a *archiver) write(e *entry, c Content) error {
	a.stats.Entries++
	err := a.out.entry(e, c)
	var unreadable readError
	if errors.As(err, &unreadable) {
		return a.failed(e.name, unreadable.error)
	}
	return err
}

// failed asks what to do about a file that cannot be read.
func (a *archiver) failed(name string, err error) error {
	a.stats.Failed++
	if a.o.Unreadable == nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return a.o.Unreadable(name, err)
}

func (a *archiver) note(text string) {
	if a.o.Note != nil {
		a.o.Note(text)
	}
}

package unpack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"cowl/internal/archive"
	"cowl/internal/errs"
)

// Place is where a tree goes.
type Place struct {
	Dir  string // exists
	Name string // of what the tree begins with, in Dir; "." if that is Dir itself
}

// Options say how to unpack. The zero Options are the careful ones.
type Options struct {
	// Overwrite replaces files that exist, and gives directories that exist what
	// the tree says of them.
	Overwrite bool
	// DryRun looks at everything and makes nothing.
	DryRun bool
	// Failed is asked about every file that cannot be read, or not be made. If
	// it returns nil the rest is unpacked. By default the first is the end.
	Failed func(name string, err error) error
	// Progress is told how many bytes were written so far. It may be nil.
	Progress func(done int64)
}

// Report is what was brought back.
type Report struct {
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	HardLinks   int64 `json:"hard_links"` // further names of files that are counted above
	Devices     int64 `json:"devices"`    // pipes among them
	Sockets     int64 `json:"sockets_skipped"`
	Failed      int64 `json:"failed"`
	Bytes       int64 `json:"bytes"` // of data; holes do not count
	// NotSet is what files have not got that they should have.
	NotSet []NotSet `json:"not_set,omitempty"`
}

// NotSet is a kind of metadata that could not be set.
type NotSet struct {
	What  string `json:"what"`
	Files int64  `json:"files"`
	First string `json:"first"` // one of them
	Why   string `json:"why"`
	// Privilege tells that root could have set it.
	Privilege bool `json:"needs_root"`
}

// Unpack puts a tree into a place. The report counts what is there also beside
// an error.
//
// Without Options.Overwrite, an error of kind errs.Exists comes before
// anything is made if a file is in the way.
func Unpack(ctx context.Context, tree archive.Tree, to Place, o Options) (*Report, error) {
	root, err := os.OpenRoot(to.Dir)
	if err != nil {
		return &Report{}, err
	}
	u := &unpacker{ctx: ctx, o: o, to: to, root: root, report: &Report{}, links: map[uint64]*hardLink{}}
	defer u.close()
	if err := u.checkFree(tree); err != nil {
		return u.report, err
	}
	err = tree.Walk(ctx, u.visit)
	// Directories get their modes also where the rest did not come.
	err = errors.Join(err, u.leave(""))
	if err != nil && ctx.Err() != nil {
		return u.report, fmt.Errorf("%w; %d files are there, complete, the rest is not", err, u.report.Files)
	}
	if err == nil && !o.DryRun {
		err = u.sync()
	}
	return u.report, err
}

// unpacker is one tree on its way.
type unpacker struct {
	ctx    context.Context
	o      Options
	to     Place
	root   *os.Root
	report *Report

	begun   bool   // the first entry, which the tree begins with, was seen
	at      *place // the directory that the last file went to
	open    []dir  // that are being filled, each in the one before it
	blocked string // a directory that cannot be filled
	links   map[uint64]*hardLink
	buf     []byte
}

// place is an open directory.
type place struct {
	name string // below the root
	root *os.Root
	self *os.File // for what os.Root cannot do
}

// dir is a directory that is being filled.
type dir struct {
	name   string
	header *archive.Header // nil if it is left as it is
	xattrs []archive.Xattr
}

// hardLink is a file that is there and has more names to come.
type hardLink struct {
	name string
	left uint32
}

func (u *unpacker) close() {
	u.closePlace()
	u.root.Close()
}

func (u *unpacker) closePlace() {
	if u.at != nil {
		u.at.self.Close()
		u.at.root.Close()
		u.at = nil
	}
}

// target returns the name below the root of an entry of the tree.
func (u *unpacker) target(name string) (string, error) {
	if !u.begun {
		u.begun = true
		return u.to.Name, nil
	}
	rest := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if rest == "" { // the beginning once more, with what is wrong with it
		return u.to.Name, nil
	}
	for c := range strings.SplitSeq(rest, "/") {
		if c == "" || c == "." || c == ".." || strings.IndexByte(c, 0) >= 0 || !filepath.IsLocal(c) || strings.ContainsRune(c, filepath.Separator) {
			return "", errs.E(errs.Corrupt, "%q cannot be the name of a file", rest)
		}
	}
	if u.to.Name == "." {
		return rest, nil
	}
	return u.to.Name + "/" + rest, nil
}

// below tells whether a name is dir's or of something in it.
func below(name, dir string) bool {
	return name == dir || dir == "." || strings.HasPrefix(name, dir) && name[len(dir)] == '/'
}

// visit unpacks an entry.
func (u *unpacker) visit(name string, f archive.File, err error) error {
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	rel, nameErr := u.target(name)
	if nameErr != nil {
		return u.failed(name, nameErr)
	}
	if u.blocked != "" && below(rel, u.blocked) {
		return nil
	}
	if err := u.leave(rel); err != nil {
		return err
	}
	if n := len(u.open); err != nil && n > 0 && u.open[n-1].name == rel {
		return u.failed(name, err) // the directory at hand once more
	}
	if err == nil {
		err = u.put(rel, f)
	}
	if err == nil {
		return nil
	}
	if f != nil && f.Header().Mode&archive.ModeType == archive.ModeDir {
		u.blocked = rel
	}
	return u.failed(name, err)
}

// failed asks what to do about a file that could not be read or made. A disk
// that takes no more is the end in any case.
func (u *unpacker) failed(name string, err error) error {
	u.report.Failed++
	err = fmt.Errorf("%s: %w", cmp.Or(strings.TrimPrefix(name, "./"), "."), err)
	var w writeError
	if u.ctx.Err() != nil || u.o.Failed == nil || errors.As(err, &w) && w.hopeless() {
		return err
	}
	return u.o.Failed(name, err)
}

// writeError is about the place, not about the tree.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// hopeless tells whether the next file would fare no better.
func (e writeError) hopeless() bool {
	return errs.Is(e.error, errs.NoSpace) || errors.Is(e.error, syscall.EIO) || errors.Is(e.error, syscall.EROFS)
}

// put unpacks one file, of whatever type.
func (u *unpacker) put(rel string, f archive.File) error {
	h := f.Header()
	if h.Mode&archive.ModeType == archive.ModeDir {
		return u.putDir(rel, f)
	}
	if rel == "." {
		return errs.E(errs.Usage, "a file cannot take the place of a directory")
	}
	if l := u.links[h.Ino]; l != nil && h.Links > 1 {
		return u.again(rel, h.Ino, l)
	}
	if err := u.create(rel, f); err != nil || h.Links < 2 {
		return err
	}
	if h.Mode&archive.ModeType != archive.ModeSocket {
		u.links[h.Ino] = &hardLink{rel, h.Links - 1}
	}
	return nil
}

// create makes what is not there yet.
func (u *unpacker) create(rel string, f archive.File) error {
	h := f.Header()
	var count *int64
	var make func(*item) error
	switch h.Mode & archive.ModeType {
	case archive.ModeSocket:
		u.report.Sockets++
		return nil
	case archive.ModeFile:
		content, err := f.Open()
		if err != nil {
			return err
		}
		if content.Close != nil {
			defer content.Close()
		}
		count, make = &u.report.Files, func(it *item) error { return u.writeFile(it, content) }
	case archive.ModeLink:
		target, err := f.Readlink()
		if err != nil {
			return err
		}
		count, make = &u.report.Symlinks, func(it *item) error { return u.symlink(it, target) }
	default:
		count, make = &u.report.Devices, u.device
	}
	xattrs, err := f.Xattrs()
	if err != nil {
		return err
	}
	if u.o.DryRun {
		*count++
		return nil
	}
	if err := u.inPlace(rel, h, xattrs, make); err != nil {
		return err
	}
	*count++
	return nil
}

// item is a file on its way to its name.
type item struct {
	in     *place
	tmp    string // in the place, until it has its name
	rel    string
	header *archive.Header
	xattrs []archive.Xattr
}

// inPlace makes a file under a name that nobody looks for, and then gives it
// its own.
func (u *unpacker) inPlace(rel string, h *archive.Header, xattrs []archive.Xattr, make func(*item) error) error {
	in, base, err := u.parent(rel)
	if err != nil {
		return err
	}
	it := &item{in: in, rel: rel, header: h, xattrs: xattrs}
	for try := 0; ; try++ {
		it.tmp = fmt.Sprintf(".cowl.%08x.partial", rand.Uint32())
		if err = make(it); !errors.Is(err, os.ErrExist) || try == 10 {
			break
		}
	}
	if err == nil {
		if err = u.publish(in, it.tmp, base); err == nil {
			return nil
		}
	}
	in.root.Remove(it.tmp)
	return err
}

// parent opens the directory that a file belongs in.
func (u *unpacker) parent(rel string) (*place, string, error) {
	name, base := path.Split(rel)
	name = path.Clean(name)
	if u.at != nil && u.at.name == name {
		return u.at, base, nil
	}
	from, rest := u.root, name
	if u.at != nil && u.at.name != "." && below(name, u.at.name) {
		from, rest = u.at.root, name[len(u.at.name)+1:]
	}
	next, err := from.OpenRoot(rest)
	if err != nil {
		return nil, "", writeError{err}
	}
	self, err := next.Open(".")
	if err != nil {
		next.Close()
		return nil, "", writeError{err}
	}
	u.closePlace()
	u.at = &place{name, next, self}
	return u.at, base, nil
}

// again gives a file that is there one more name.
func (u *unpacker) again(rel string, ino uint64, l *hardLink) error {
	if l.left--; l.left == 0 {
		delete(u.links, ino)
	}
	if !u.o.DryRun {
		if err := u.link(l.name, rel); err != nil {
			return err
		}
	}
	u.report.HardLinks++
	return nil
}

// link makes a hard link.
func (u *unpacker) link(old, rel string) error {
	if !u.o.Overwrite {
		return exists(rel, u.root.Link(old, rel))
	}
	in, base, err := u.parent(rel)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf(".cowl.%08x.partial", rand.Uint32())
	if err := u.root.Link(old, path.Join(in.name, tmp)); err != nil {
		return writeError{err}
	}
	err = u.publish(in, tmp, base)
	in.root.Remove(tmp) // it stays where both were names of one file before
	return err
}

// exists explains what is in the way.
func exists(rel string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrExist):
		return errs.E(errs.Exists, "%s exists already", rel)
	}
	return writeError{err}
}

// putDir makes a directory, or takes the one that is there.
func (u *unpacker) putDir(rel string, f archive.File) error {
	xattrs, err := f.Xattrs()
	if err != nil {
		return err
	}
	d := dir{name: rel, header: f.Header(), xattrs: xattrs}
	if !u.o.DryRun {
		made, err := u.mkdir(rel)
		if err != nil {
			return err
		}
		if !made && !u.o.Overwrite {
			d.header = nil
		}
	}
	u.report.Directories++
	u.open = append(u.open, d)
	return nil
}

// mkdir makes a directory for us alone until it is full.
func (u *unpacker) mkdir(rel string) (made bool, err error) {
	if rel == "." {
		return false, nil
	}
	in, base, err := u.parent(rel)
	if err != nil {
		return false, err
	}
	err = in.root.Mkdir(base, 0o700)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return false, writeError{err}
	}
	st, err := in.root.Lstat(base)
	if err != nil {
		return false, writeError{err}
	}
	if !st.IsDir() {
		return false, errs.E(errs.Exists, "%s exists already and is no directory", rel)
	}
	return false, nil
}

// leave gives the directories that are full, because the next entry is not in
// them, what the tree says of them. "" is in none.
func (u *unpacker) leave(next string) error {
	for n := len(u.open); n > 0 && (next == "" || !below(next, u.open[n-1].name)); n-- {
		d := u.open[n-1]
		u.open = u.open[:n-1]
		if d.header == nil || u.o.DryRun {
			continue
		}
		if err := u.finishDir(d); err != nil {
			if err := u.failed("./"+d.name, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *unpacker) finishDir(d dir) error {
	in, base, err := u.parent(d.name)
	if err != nil {
		return err
	}
	return u.describe(&item{in: in, tmp: base, rel: d.name, header: d.header, xattrs: d.xattrs}, nil)
}

// writeFile makes a regular file with its content.
func (u *unpacker) writeFile(it *item, c archive.Content) (err error) {
	f, err := it.in.root.OpenFile(it.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return writeError{err}
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = writeError{closeErr}
		}
	}()
	if err := u.fill(f, it.header.Size, c); err != nil {
		return err
	}
	return u.describe(it, f)
}

// fill writes a file's data, and leaves its holes.
func (u *unpacker) fill(f *os.File, size int64, c archive.Content) error {
	if c.Data == nil {
		return u.span(f, archive.Span{Len: size}, c)
	}
	if err := f.Truncate(size); err != nil {
		return writeError{err}
	}
	for s, err := range c.Data {
		if err == nil {
			err = u.span(f, s, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyBytes is how much of a file is read at once.
const copyBytes = 1 << 20

func (u *unpacker) span(f *os.File, s archive.Span, c archive.Content) error {
	if u.buf == nil {
		u.buf = make([]byte, copyBytes)
	}
	for s.Len > 0 {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		b := u.buf[:min(s.Len, copyBytes)]
		if n, err := c.ReadAt(b, s.Off); n < len(b) {
			return fmt.Errorf("byte %d: %w", s.Off+int64(n), err)
		}
		if _, err := f.WriteAt(b, s.Off); err != nil {
			return writeError{err}
		}
		s.Off, s.Len = s.Off+int64(len(b)), s.Len-int64(len(b))
		u.report.Bytes += int64(len(b))
		if u.o.Progress != nil {
			u.o.Progress(u.report.Bytes)
		}
	}
	return nil
}

// symlink makes a symbolic link, wherever that leads: nobody follows it here.
func (u *unpacker) symlink(it *item, target string) error {
	if err := it.in.root.Symlink(target, it.tmp); err != nil {
		return writeError{err}
	}
	return u.describe(it, nil)
}

// notSet notes down what a file has not got.
func (u *unpacker) notSet(what, rel string, err error, privilege bool) {
	for i := range u.report.NotSet {
		if n := &u.report.NotSet[i]; n.What == what {
			n.Files++
			return
		}
	}
	u.report.NotSet = append(u.report.NotSet, NotSet{What: what, Files: 1, First: rel, Why: err.Error(), Privilege: privilege})
}

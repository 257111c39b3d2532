package fsdiff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"cowl/internal/archive"
)

// Trees compares two trees, as Diff does two file systems, where one of them is
// something else: an archive, or what the kernel shows. Both must be in the order of
// their names. Of Options, Names and Unreadable count.
//
// Files are known by their paths, so what was renamed is removed and added. Flags
// and project numbers, which archives do not have, do not count, nor do sockets; if
// one of two times is in whole seconds, the other's fraction does not.
//
// Memory does not grow with the trees.
func Trees(ctx context.Context, a, b archive.Tree, o Options, report func(*Change) error) error {
	if o.Names == [2]string{} {
		o.Names = [2]string{"first", "second"}
	}
	t := &treeDiffer{differ: differ{ctx: ctx, o: o, report: report}, alike: map[[2]uint64]struct{}{}}
	for s, tree := range []archive.Tree{a, b} {
		t.side[s].pull, t.side[s].stop = iter.Pull2(walked(ctx, tree))
		defer t.side[s].stop()
	}
	return t.run()
}

// treeDiffer is one comparison of trees.
type treeDiffer struct {
	differ
	side  [2]treeCursor
	alike map[[2]uint64]struct{} // as differ's, by numbers of inodes
}

// treeCursor goes through a tree.
type treeCursor struct {
	pull    func() (treeEntry, error, bool)
	stop    func()
	at      treeEntry
	done    bool
	begun   bool
	blocked string // a path that cannot be read
}

// treeEntry is what a walk comes to.
type treeEntry struct {
	path string // "" for the beginning, whatever its name
	file archive.File
	err  error
}

// walked yields what a tree's walk visits, and its error.
func walked(ctx context.Context, tree archive.Tree) iter.Seq2[treeEntry, error] {
	return func(yield func(treeEntry, error) bool) {
		err := tree.Walk(ctx, func(name string, f archive.File, err error) error {
			if !yield(treeEntry{strings.TrimPrefix(name, "./"), f, err}, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(treeEntry{}, err)
		}
	}
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// next goes on to the next file of a side. What cannot be read is asked about, and
// counts as the same.
func (t *treeDiffer) next(s side) error {
	c := &t.side[s]
	for {
		e, err, ok := c.pull()
		if err != nil {
			return fmt.Errorf("%s: %w", t.o.Names[s], err)
		}
		if c.done = !ok; c.done {
			return nil
		}
		if !c.begun {
			c.begun, e.path = true, ""
		}
		if e.err != nil {
			if err := t.failed(s, e.path, e.err); err != nil {
				return err
			}
			if e.file != nil { // a directory once more
				continue
			}
			if c.blocked = e.path; e.path == "" {
				return e.err
			}
		}
		if e.file == nil || e.file.Header().Mode&archive.ModeType != archive.ModeSocket {
			c.at = e
			return nil
		}
	}
}

// run goes through both trees side by side.
func (t *treeDiffer) run() error {
	for _, s := range []side{sideA, sideB} {
		if err := t.next(s); err != nil {
			return err
		}
	}
	a, b := &t.side[sideA], &t.side[sideB]
	for !a.done || !b.done {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		order := 0
		switch {
		case b.done:
			order = -1
		case a.done:
			order = 1
		default:
			order = byPath(a.at.path, b.at.path)
		}
		if err := t.step(order); err != nil {
			return err
		}
		if order <= 0 {
			if err := t.next(sideA); err != nil {
				return err
			}
		}
		if order >= 0 {
			if err := t.next(sideB); err != nil {
				return err
			}
		}
	}
	return nil
}

// step reports what there is to say of the file at hand: in A only if order is
// negative, in B only if it is positive.
func (t *treeDiffer) step(order int) error {
	a, b := &t.side[sideA], &t.side[sideB]
	switch {
	case order < 0 && (b.hides(a.at.path) || a.at.file == nil), order > 0 && (a.hides(b.at.path) || b.at.file == nil):
		return nil
	case order < 0:
		return t.report(&Change{Kind: Removed, Path: "/" + a.at.path, A: a.at.file.Header().Node(), Files: [2]archive.File{a.at.file, nil}})
	case order > 0:
		return t.report(&Change{Kind: Added, Path: "/" + b.at.path, B: b.at.file.Header().Node(), Files: [2]archive.File{nil, b.at.file}})
	case a.at.file == nil, b.at.file == nil:
		return nil
	}
	return t.compare(a.at.path, a.at.file, b.at.file)
}

// hides tells whether it is not known if a path is there.
func (c *treeCursor) hides(path string) bool {
	return c.blocked != "" && (path == c.blocked || strings.HasPrefix(path, c.blocked+"/"))
}

// byPath orders paths as they come when directories are walked by name: the end of a
// name comes before whatever it may go on with.
func byPath(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n == len(a) || n == len(b) {
		return cmp.Compare(len(a), len(b))
	}
	rank := func(c byte) int {
		if c == '/' {
			return -1
		}
		return int(c)
	}
	return cmp.Compare(rank(a[n]), rank(b[n]))
}

// compare reports what differs of a file that both have.
func (t *treeDiffer) compare(path string, fa, fb archive.File) error {
	ha, hb := fa.Header(), fb.Header()
	c := &Change{Path: "/" + path, A: ha.Node(), B: hb.Node(), Files: [2]archive.File{fa, fb}}
	kind := ha.Mode & archive.ModeType
	if kind != hb.Mode&archive.ModeType {
		c.Kind, c.What = Replaced, []string{Type}
		return t.report(c)
	}
	key := [2]uint64{ha.Ino, hb.Ino}
	if _, ok := t.alike[key]; ok {
		return nil
	}
	content, same, err := t.sameFile(path, fa, fb)
	if err != nil {
		return err
	}
	xattrs, err := t.sameAttributes(path, fa, fb)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		word string
		same bool
	}{
		{content, same},
		{Mode, ha.Mode == hb.Mode},
		{Owner, ha.UID == hb.UID && ha.GID == hb.GID},
		{Xattrs, xattrs},
		{Time, !same || kind == archive.ModeDir || sameTime(ha, hb)},
	} {
		if !p.same {
			c.What = append(c.What, p.word)
		}
	}
	if len(c.What) > 0 {
		if c.Kind = Metadata; !same {
			c.Kind = Changed
		}
		return t.report(c)
	}
	if ha.Links > 1 && hb.Links > 1 && kind != archive.ModeDir && len(t.alike) < maxAlike {
		t.alike[key] = struct{}{}
	}
	return nil
}

func sameTime(a, b *archive.Header) bool {
	if a.Mtime.Nanosecond() == 0 || b.Mtime.Nanosecond() == 0 {
		return a.Mtime.Unix() == b.Mtime.Unix()
	}
	return a.Mtime.Equal(b.Mtime)
}

// sameFile compares what files are there for, and says what that is.
func (t *treeDiffer) sameFile(path string, fa, fb archive.File) (what string, same bool, err error) {
	ha, hb := fa.Header(), fb.Header()
	switch ha.Mode & archive.ModeType {
	case archive.ModeFile:
		if ha.Size != hb.Size {
			return Content, false, nil
		}
		same, s, err := t.sameBytes(fa, fb, ha.Size)
		if err != nil {
			return Content, true, t.failed(s, path, err)
		}
		return Content, same, nil
	case archive.ModeLink:
		var targets [2]string
		for s, f := range []archive.File{fa, fb} {
			if targets[s], err = f.Readlink(); err != nil {
				return Target, true, t.failed(side(s), path, err)
			}
		}
		return Target, targets[sideA] == targets[sideB], nil
	case archive.ModeChar, archive.ModeBlock:
		return Device, ha.Major == hb.Major && ha.Minor == hb.Minor, nil
	}
	return "", true, nil
}

// sameAttributes compares extended attributes, in whatever order they are.
func (t *treeDiffer) sameAttributes(path string, fa, fb archive.File) (bool, error) {
	var attrs [2][]archive.Xattr
	for s, f := range []archive.File{fa, fb} {
		found, err := f.Xattrs()
		if err != nil {
			return true, t.failed(side(s), path, err)
		}
		attrs[s] = slices.SortedFunc(slices.Values(found), func(x, y archive.Xattr) int { return cmp.Compare(x.Name, y.Name) })
	}
	return slices.EqualFunc(attrs[sideA], attrs[sideB], func(x, y archive.Xattr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) }), nil
}

// sameBytes compares regular files of one size: by their sums if the archive of one
// knows that, so that it need not be read again. An error comes with the side that
// it is of.
func (t *treeDiffer) sameBytes(fa, fb archive.File, size int64) (same bool, s side, err error) {
	var c [2]archive.Content
	for s, f := range []archive.File{fa, fb} {
		if c[s], err = f.Open(); err != nil {
			return false, side(s), err
		}
		if c[s].Close != nil {
			defer c[s].Close()
		}
	}
	if c[sideA].Sum != nil || c[sideB].Sum != nil {
		var sums [2]archive.Sum
		for s := range c {
			if sums[s], err = archive.SumOf(t.ctx, c[s], size); err != nil {
				return false, side(s), err
			}
		}
		return sums[sideA] == sums[sideB], sideA, nil
	}
	if t.buf[sideA] == nil {
		t.buf = [2][]byte{make([]byte, compareBytes), make([]byte, compareBytes)}
	}
	for span, err := range either(c[sideA].Spans(size), c[sideB].Spans(size)) {
		if err != nil {
			return false, sideA, err
		}
		if same, s, err := t.sameSpan(c, span); !same || err != nil {
			return false, s, err
		}
	}
	return true, sideA, nil
}

// sameSpan compares a part of two files.
func (t *treeDiffer) sameSpan(c [2]archive.Content, span archive.Span) (bool, side, error) {
	for span.Len > 0 {
		if t.ctx.Err() != nil {
			return false, sideA, context.Cause(t.ctx)
		}
		n := min(span.Len, compareBytes)
		for s := range c {
			if got, err := c[s].ReadAt(t.buf[s][:n], span.Off); int64(got) < n {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return false, side(s), err
			}
		}
		if !bytes.Equal(t.buf[sideA][:n], t.buf[sideB][:n]) {
			return false, sideA, nil
		}
		span.Off, span.Len = span.Off+n, span.Len-n
	}
	return true, sideA, nil
}

// either yields what is in one of two lists of spans, or in both, once.
func either(a, b iter.Seq2[archive.Span, error]) iter.Seq2[archive.Span, error] {
	return func(yield func(archive.Span, error) bool) {
		nextA, stopA := iter.Pull2(a)
		defer stopA()
		nextB, stopB := iter.Pull2(b)
		defer stopB()
		x, errX, okX := nextA()
		y, errY, okY := nextB()
		for end := int64(0); okX || okY; {
			if err := errors.Join(errX, errY); err != nil {
				yield(archive.Span{}, err)
				return
			}
			s := x
			if okX && (!okY || x.Off <= y.Off) {
				x, errX, okX = nextA()
			} else {
				s = y
				y, errY, okY = nextB()
			}
			if from := max(s.Off, end); s.Off+s.Len > from {
				end = s.Off + s.Len
				if !yield(archive.Span{Off: from, Len: end - from}, nil) {
					return
				}
			}
		}
	}
}

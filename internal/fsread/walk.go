package fsread

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Order says in which order a directory's entries are visited.
type Order uint8

// The orders. ByInode is the quickest: it reads inodes in the order in which
// they stand on the disk, and visits a directory's files before it enters
// its directories. In directories of very many entries it sorts them piece by
// piece.
const (
	ByInode Order = iota
	ByName
)

// WalkOptions say how to walk.
type WalkOptions struct {
	Order Order
	// NamesOnly leaves Item.Node nil where that saves reading the inode: of all
	// but directories, if the file system keeps types with the names.
	NamesOnly bool
	// Flat enters no directory but the one that the walk begins with.
	Flat bool
}

// Item is what a walk comes to.
type Item struct {
	Path string // from the start of the walk, names separated by slashes; "" for the start itself
	Name string // the last of them
	Type ext4.Mode
	Ino  ext4.Ino
	Node *Node // nil if there is an Err that concerns it
	// Err is why the node, or with a Node a part of the directory's entries,
	// cannot be read.
	Err error
}

// Walk visits a directory and all that is below it. A directory comes before
// what is in it. visit may return fs.SkipDir, which leaves out what is in the
// directory at hand; any other error ends the walk and is Walk's. What cannot
// be read is visited with Item.Err set, and it is visit that decides whether
// the walk goes on.
//
// A directory is entered once, however many names it has: the second name is
// an error. Memory is bounded, however many entries a directory has.
func (f *FS) Walk(ctx context.Context, start *Node, o WalkOptions, visit func(*Item) error) error {
	w := &walker{ctx: ctx, fs: f, o: o, visit: visit, seen: InoSet{}, spare: walkBatch}
	return w.enter(&Item{Ino: start.Ino, Type: start.Mode.Type(), Node: start})
}

const (
	// walkBatch is how many entries all levels of a walk together hold, as long
	// as each can have minBatch.
	walkBatch = 1 << 16
	minBatch  = 256
)

type walker struct {
	ctx   context.Context
	fs    *FS
	o     WalkOptions
	visit func(*Item) error
	seen  InoSet // directories
	spare int    // of walkBatch, what no level has taken
	path  []byte // of the directory at hand, with a slash unless it is empty
}

// enter visits a node and, if it is a directory, what is in it.
func (w *walker) enter(it *Item) error {
	switch err := w.visit(it); {
	case errors.Is(err, fs.SkipDir):
		return nil
	case err != nil || it.Type != ext4.TypeDir || w.o.Flat && it.Path != "":
		return err
	}
	w.seen.Add(it.Ino)
	for r := (dirReader{w: w, dir: it}); ; {
		batch, err := r.next(max(minBatch, w.spare))
		if err != nil || len(batch) == 0 {
			return err
		}
		if w.o.Order == ByInode {
			if batch, err = w.files(batch); err != nil {
				return err
			}
		}
		w.spare -= len(batch)
		for i := range batch {
			if err := w.entry(&batch[i], true); err != nil {
				return err
			}
		}
		w.spare += len(batch)
	}
}

// files visits those entries of a batch that are no directories, and returns
// those that are.
func (w *walker) files(batch []Entry) (dirs []Entry, err error) {
	for i := range batch {
		e := &batch[i]
		if e.Type != ext4.TypeDir {
			if err := w.entry(e, false); err != nil {
				return nil, err
			}
		}
		if e.Type == ext4.TypeDir {
			dirs = append(dirs, *e)
		}
	}
	return dirs, nil
}

// entry visits what an entry leads to. What turns out to be a directory is
// left alone, but for e.Type, unless it may be entered.
func (w *walker) entry(e *Entry, enter bool) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	before := len(w.path)
	defer func() { w.path = w.path[:before] }()
	w.path = append(w.path, e.Name...)
	it := &Item{Path: string(w.path), Name: e.Name, Type: e.Type, Ino: e.Ino}
	if it.Type == 0 || it.Type == ext4.TypeDir || !w.o.NamesOnly {
		if it.Node, it.Err = w.fs.Inode(e.Ino); it.Err != nil {
			return w.visit(it)
		}
		it.Type = it.Node.Mode.Type()
	}
	if it.Type == ext4.TypeDir {
		if !enter {
			e.Type = ext4.TypeDir
			return nil
		}
		if it.Err = w.mayEnter(it); it.Err != nil {
			it.Node = nil
			return w.visit(it)
		}
		w.path = append(w.path, '/')
	}
	return w.enter(it)
}

// mayEnter says why a directory cannot be entered.
func (w *walker) mayEnter(it *Item) error {
	if w.seen.Has(it.Ino) {
		return errs.E(errs.Corrupt, "directory inode %d has another name already", it.Ino)
	}
	if len(it.Path) > maxPath {
		return errs.E(errs.Unsupported, "directories are nested too deeply: a path of %d bytes", len(it.Path))
	}
	return nil
}

// dirReader reads a directory batch by batch.
type dirReader struct {
	w    *walker
	dir  *Item
	last Entry             // of those that were returned, in the order at hand
	keep func(*Entry) bool // by name: which entries are wanted, nil for all
	read bool              // all of the directory at least once
	done bool
}

// next returns up to limit further entries in the walk's order, none at the
// end.
func (r *dirReader) next(limit int) ([]Entry, error) {
	switch {
	case r.done:
		return nil, nil
	case r.w.o.Order == ByName:
		return r.nextByName(limit)
	}
	var batch []Entry
	r.done = true
	for e, err := range r.w.fs.readDir(r.dir.Node, r.last.next) {
		if err != nil {
			if err := r.damage(err); err != nil {
				return nil, err
			}
			continue
		}
		batch = append(batch, e)
		if len(batch) == limit {
			r.done, r.last = false, e
			break
		}
	}
	slices.SortFunc(batch, func(a, b Entry) int { return int(int64(a.Ino) - int64(b.Ino)) })
	return batch, nil
}

// nextByName returns the next entries by name. A directory with more of them
// than limit is read again for each batch, which costs less than what holding
// it would.
func (r *dirReader) nextByName(limit int) ([]Entry, error) {
	var h lastFirst
	r.done = true
	for e, err := range r.w.fs.ReadDir(r.dir.Node) {
		switch {
		case err != nil && !r.read:
			if err := r.damage(err); err != nil {
				return nil, err
			}
		case err != nil || r.last.Name != "" && byName(e, r.last) <= 0 || r.keep != nil && !r.keep(&e):
		case len(h) < limit:
			h.push(e)
		default:
			r.done = false
			if byName(e, h[0]) < 0 {
				h.replace(e)
			}
		}
	}
	r.read = true
	slices.SortFunc(h, byName)
	if len(h) > 0 {
		r.last = h[len(h)-1]
	}
	return h, nil
}

// damage visits the directory once more, with what is wrong with it.
func (r *dirReader) damage(err error) error {
	it := *r.dir
	it.Err = err
	return r.w.visit(&it)
}

// byName orders entries, also those that have a name twice.
func byName(a, b Entry) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return cmp.Compare(a.next, b.next)
}

// lastFirst is a heap with the last name at the top.
type lastFirst []Entry

func (h *lastFirst) push(e Entry) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0 && byName(s[(i-1)/2], s[i]) < 0; i = (i - 1) / 2 {
		s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
	}
}

// replace puts an entry in the place of the last one.
func (h lastFirst) replace(e Entry) {
	h[0] = e
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && byName(h[child+1], h[child]) > 0 {
			child++
		}
		if byName(h[child], h[i]) <= 0 {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

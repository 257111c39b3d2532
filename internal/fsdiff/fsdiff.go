// Package fsdiff compares the files of two file systems that package fsread
// reads, and says what was added, removed, changed, renamed.
//
// Of two states of one file system (the same UUID) an inode's number and
// generation say which file is which, so that a name that moved is a rename. If it
// is known in which bytes of the devices the states may differ (two snapshots
// of a volume), only directories and files that have some of these are compared;
// of the others nothing is read but the names. Otherwise files are compared by
// their metadata and, unless Options.Quick is set, by their content.
//
// Changes are reported by path, renames last. Trees does the same for what is no such
// file system, with less that is known.
//
// Memory: a bit for each directory, and for each inode that may differ; a
// bounded number of names of directories at hand; and the path of each name
// whose inode is in use on the other side, until it is known whether it was
// renamed. Of those there are at most maxHeld: more are reported as
// removed and added, which they are as well.
package fsdiff

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cowl/internal/archive"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// Kind says what happened to a file.
type Kind string

// The kinds of changes.
const (
	Added    Kind = "added"
	Removed  Kind = "removed"
	Changed  Kind = "changed"  // its content, and perhaps more
	Renamed  Kind = "renamed"  // and perhaps changed as well
	Metadata Kind = "metadata" // its content is the same
	Replaced Kind = "replaced" // by a file of another type
)

// What may differ of a file, in words. Times are told only where nothing else
// explains them, a directory's never.
const (
	Content = "content"
	Target  = "target" // of a symbolic link
	Device  = "device" // the number
	Mode    = "mode"
	Owner   = "owner"
	Flags   = "flags" // what chattr sets
	Project = "project"
	Xattrs  = "attributes"
	Time    = "time" // of modification
	Type    = "type"
)

// Change is one file that is not the same in both.
type Change struct {
	Kind Kind
	Path string // in B; of what was removed, in A, or below the new name of a directory that was renamed
	From string // of what was renamed, in A
	// A and B are what both know of the file, nil where it is not.
	A, B *fsread.Node
	What []string // differs, the content first
	// Files are the two of Trees, and can be read while the change is reported.
	Files [2]archive.File
}

// Options say how to compare. The zero Options read what they have to.
type Options struct {
	// Changed is where the devices may differ, nil if that is not known. Where it
	// is known that they do not, it is empty and not nil.
	Changed fsread.Ranges
	// Quick takes files for the same whose inodes say the same of size, times
	// and place, where Changed is not known. It is for states of one file system.
	Quick bool
	// Names are how errors name the two places; "first" and "second" without.
	Names [2]string
	// Unreadable is asked about what cannot be read. If it returns nil the rest
	// is compared. By default the first is the end.
	Unreadable func(error) error
}

// side is one of the two that are compared.
type side int

const (
	sideA side = iota
	sideB
)

// Diff compares what is below a path of a with what is below one of b, and tells
// report of each change. Its errors end it.
func Diff(ctx context.Context, a, b *fsread.FS, pathA, pathB string, o Options, report func(*Change) error) error {
	if o.Names == [2]string{} {
		o.Names = [2]string{"first", "second"}
	}
	d := &differ{ctx: ctx, fs: [2]*fsread.FS{a, b}, o: o, report: report, budget: fsread.NewBudget(), kin: fsread.Kin(a, b),
		seen: [2]fsread.InoSet{{}, {}}, held: [2]map[ext4.Ino][]string{{}, {}}, alike: map[[2]ext4.Ino]struct{}{}}
	if o.Changed != nil && d.kin {
		var err error
		if d.pair, err = fsread.NewPair(ctx, a, b, o.Changed); err != nil {
			return err
		}
	}
	var start [2]*fsread.Node
	for s, path := range []string{pathA, pathB} {
		var err error
		if start[s], err = d.fs[s].Lookup(path, true); err != nil {
			return fmt.Errorf("%s: %w", o.Names[s], err)
		}
	}
	if err := d.both("", start[sideA], start[sideB]); err != nil {
		return err
	}
	return d.renames()
}

// differ is one comparison.
type differ struct {
	ctx    context.Context
	fs     [2]*fsread.FS
	o      Options
	report func(*Change) error
	budget *fsread.Budget
	kin    bool
	pair   *fsread.Pair // nil if it is not known what may differ

	depth   int
	seen    [2]fsread.InoSet         // directories that were entered
	held    [2]map[ext4.Ino][]string // paths of names that may have been renamed
	holding int                      // how many
	come    []ext4.Ino               // of B, in order

	buf   [2][]byte                // of the files that are compared
	alike map[[2]ext4.Ino]struct{} // of files with several names, those in which nothing differs
}

const (
	// maxDepth and maxPath bound how deep directories are entered.
	maxDepth = 4096
	maxPath  = 1 << 16
	// maxHeld bounds the names that may turn out to be renamed.
	maxHeld = 1 << 19
	// maxAlike bounds the files that are remembered so as not to be read again under
	// their other names.
	maxAlike = 1 << 16
)

// failed asks what to do about an error of reading, if there is one.
func (d *differ) failed(s side, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case d.ctx.Err() != nil:
		return context.Cause(d.ctx)
	}
	err = fmt.Errorf("%s/%s: %w", strings.TrimSuffix(d.o.Names[s], "/"), path, err)
	if d.o.Unreadable == nil {
		return err
	}
	return d.o.Unreadable(err)
}

// both compares a file that both have under one path.
func (d *differ) both(path string, na, nb *fsread.Node) error {
	if na.Mode.Type() != nb.Mode.Type() {
		return d.replaced(path, na, nb)
	}
	if d.mayDiffer(na, nb) {
		what, err := d.compare(path, na, nb)
		if err == nil && len(what) > 0 {
			err = d.tell(path, path, na, nb, what)
		}
		if err != nil {
			return err
		}
	}
	return d.below(path, na, nb)
}

// mayDiffer tells whether two files have to be compared.
func (d *differ) mayDiffer(na, nb *fsread.Node) bool {
	return d.pair == nil || na.Ino != nb.Ino || d.pair.Touched(nb.Ino)
}

// below compares what is in two directories. Of other files that is nothing.
func (d *differ) below(path string, na, nb *fsread.Node) error {
	if nb.Mode.Type() != ext4.TypeDir {
		return nil
	}
	return d.enter(path, na, nb, func() error {
		if d.mayDiffer(na, nb) {
			return d.merge(path, na, nb)
		}
		return d.same(path, nb)
	})
}

// tell reports what was found out about a file that both have.
func (d *differ) tell(from, path string, na, nb *fsread.Node, what []string) error {
	c := &Change{Kind: Metadata, Path: "/" + path, A: na, B: nb, What: what}
	switch {
	case from != path:
		c.Kind, c.From = Renamed, "/"+from
	case what[0] == Content || what[0] == Target || what[0] == Device:
		c.Kind = Changed
	}
	return d.report(c)
}

// replaced reports a file that has become one of another type. What was below a
// directory is gone, and what is below one is new.
func (d *differ) replaced(path string, na, nb *fsread.Node) error {
	if err := d.report(&Change{Kind: Replaced, Path: "/" + path, A: na, B: nb, What: []string{Type}}); err != nil {
		return err
	}
	if err := d.tree(sideA, path, na); err != nil {
		return err
	}
	return d.tree(sideB, path, nb)
}

// enter goes one directory deeper, na in A and nb in B, either of which may be
// nil. A directory with two names is damage, and could go round in circles.
func (d *differ) enter(path string, na, nb *fsread.Node, f func() error) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	for s, n := range []*fsread.Node{na, nb} {
		if n == nil {
			continue
		}
		if d.seen[s].Has(n.Ino) {
			return d.failed(side(s), path, errs.E(errs.Corrupt, "directory inode %d has another name already", n.Ino))
		}
		if d.depth == maxDepth || len(path) > maxPath {
			return d.failed(side(s), path[:min(len(path), 200)], errs.E(errs.Unsupported, "directories are nested too deeply"))
		}
		d.seen[s].Add(n.Ino)
	}
	d.depth++
	defer func() { d.depth-- }()
	return f()
}

// join puts a path together.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// same goes through a directory that has the same entries in both, for what may
// have changed below it.
func (d *differ) same(path string, n *fsread.Node) error {
	keep := func(e *fsread.Entry) bool { return e.Type == 0 || e.Type == ext4.TypeDir || d.pair.Touched(e.Ino) }
	for e, err := range d.fs[sideB].ReadByName(n, d.budget, keep) {
		if err == nil {
			err = d.sameEntry(join(path, e.Name), e)
		} else {
			err = d.failed(sideB, path, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sameEntry is for a name that leads to the same inode in both.
func (d *differ) sameEntry(path string, e fsread.Entry) error {
	touched := d.pair.Touched(e.Ino)
	if !touched && e.Type != 0 && e.Type != ext4.TypeDir {
		return nil
	}
	nb, err := d.fs[sideB].Inode(e.Ino)
	if err != nil {
		return d.failed(sideB, path, err)
	}
	na := nb
	if touched {
		if na, err = d.fs[sideA].Inode(e.Ino); err != nil {
			return d.failed(sideA, path, err)
		}
	}
	return d.both(path, na, nb)
}

// merge compares the entries of two directories, both by name.
func (d *differ) merge(path string, na, nb *fsread.Node) error {
	a, b := d.cursor(sideA, na), d.cursor(sideB, nb)
	defer a.stop()
	defer b.stop()
	for {
		for _, c := range []*cursor{a, b} {
			if err := c.advance(path); err != nil {
				return err
			}
		}
		var err error
		switch {
		case a.done && b.done:
			return nil
		case b.done || !a.done && a.entry.Name < b.entry.Name:
			err = d.oneSide(sideA, join(path, a.entry.Name), a.take())
		case a.done || b.entry.Name < a.entry.Name:
			err = d.oneSide(sideB, join(path, b.entry.Name), b.take())
		default:
			err = d.entries(join(path, a.entry.Name), a.take(), b.take())
		}
		if err != nil {
			return err
		}
	}
}

// entries compares what a name leads to on both sides.
func (d *differ) entries(path string, ea, eb fsread.Entry) error {
	if d.pair != nil && ea.Ino == eb.Ino {
		return d.sameEntry(path, eb)
	}
	na, err := d.fs[sideA].Inode(ea.Ino)
	if err != nil {
		return d.failed(sideA, path, err)
	}
	nb, err := d.fs[sideB].Inode(eb.Ino)
	if err != nil {
		return d.failed(sideB, path, err)
	}
	return d.both(path, na, nb)
}

// oneSide is for a name that is on one side only.
func (d *differ) oneSide(s side, path string, e fsread.Entry) error {
	n, err := d.fs[s].Inode(e.Ino)
	if err != nil {
		return d.failed(s, path, err)
	}
	if d.kin && d.holding < maxHeld {
		// What has its inode there may have another name there.
		if o, err := d.fs[1-s].Inode(e.Ino); err == nil && o.Links > 0 && sameFile(o, n) {
			d.hold(s, path, e.Ino)
			return nil
		}
	}
	return d.alone(s, path, n)
}

// sameFile tells whether two inodes of one number are states of one file. The
// kernel gives each file a generation of its own. What other programs make has none,
// hence the time when it was made, or where there is none either, what a
// rename leaves as it was.
func sameFile(a, b *fsread.Node) bool {
	if a.Generation != b.Generation || a.Mode.Type() != b.Mode.Type() || !a.Crtime.Equal(b.Crtime) {
		return false
	}
	return a.Generation != 0 || !a.Crtime.IsZero() || a.Size == b.Size && a.Mtime.Equal(b.Mtime)
}

// alone reports a file that is on one side only, and what is below it.
func (d *differ) alone(s side, path string, n *fsread.Node) error {
	c := &Change{Kind: Removed, Path: "/" + path, A: n}
	if s == sideB {
		c = &Change{Kind: Added, Path: "/" + path, B: n}
	}
	if err := d.report(c); err != nil {
		return err
	}
	return d.tree(s, path, n)
}

// tree reports what is below a directory that is on one side only. Of other files
// that is nothing.
func (d *differ) tree(s side, path string, n *fsread.Node) error {
	if n.Mode.Type() != ext4.TypeDir {
		return nil
	}
	only := [2]*fsread.Node{}
	only[s] = n
	return d.enter(path, only[sideA], only[sideB], func() error {
		for e, err := range d.fs[s].ReadByName(n, d.budget, nil) {
			if err == nil {
				err = d.oneSide(s, join(path, e.Name), e)
			} else {
				err = d.failed(s, path, err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// hold keeps a name until it is known whether it was renamed.
func (d *differ) hold(s side, path string, ino ext4.Ino) {
	if s == sideB && d.held[s][ino] == nil {
		d.come = append(d.come, ino)
	}
	d.held[s][ino] = append(d.held[s][ino], path)
	d.holding++
}

// release gives up the first n names that are held of an inode.
func (d *differ) release(s side, ino ext4.Ino, n int) {
	if d.held[s][ino] = d.held[s][ino][n:]; len(d.held[s][ino]) == 0 {
		delete(d.held[s], ino)
	}
	d.holding -= n
}

// renames pairs names that are gone with those that have come. A directory that
// was renamed is compared then, which may find more of them.
func (d *differ) renames() error {
	for len(d.come) > 0 {
		come := d.come
		d.come = nil
		for _, ino := range come {
			if err := d.renamesOf(ino); err != nil {
				return err
			}
		}
	}
	return d.leftovers()
}

// renamesOf pairs the names of a file. Those that have come beyond that are one
// more name of it.
func (d *differ) renamesOf(ino ext4.Ino) error {
	gone, come := d.held[sideA][ino], d.held[sideB][ino]
	n := min(len(gone), len(come))
	d.release(sideA, ino, n)
	d.release(sideB, ino, len(come))
	for i, to := range come {
		nb, err := d.fs[sideB].Inode(ino)
		switch {
		case err != nil:
			err = d.failed(sideB, to, err)
		case i < n:
			err = d.renamed(gone[i], to, nb)
		default:
			err = d.alone(sideB, to, nb)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// renamed reports a file that has another name now, and compares it.
func (d *differ) renamed(from, to string, nb *fsread.Node) error {
	na, err := d.fs[sideA].Inode(nb.Ino)
	if err != nil {
		return d.failed(sideA, from, err)
	}
	what, err := d.compare(to, na, nb)
	if err != nil {
		return err
	}
	if err := d.tell(from, to, na, nb, what); err != nil {
		return err
	}
	return d.below(to, na, nb)
}

// leftovers reports the names that are gone though their file is not.
func (d *differ) leftovers() error {
	type name struct {
		path string
		ino  ext4.Ino
	}
	for len(d.held[sideA]) > 0 { // what is below one may be held in turn
		var all []name
		for ino, paths := range d.held[sideA] {
			for _, p := range paths {
				all = append(all, name{p, ino})
			}
		}
		d.holding -= len(all)
		clear(d.held[sideA])
		slices.SortFunc(all, func(a, b name) int { return strings.Compare(a.path, b.path) })
		for _, x := range all {
			n, err := d.fs[sideA].Inode(x.ino)
			if err != nil {
				err = d.failed(sideA, x.path, err)
			} else {
				err = d.alone(sideA, x.path, n)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Letter is what listings show for a kind.
func (k Kind) Letter() string {
	return map[Kind]string{Added: "+", Removed: "-", Changed: "M", Renamed: "R", Metadata: "m", Replaced: "T"}[k]
}

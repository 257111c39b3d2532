package archive

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"time"

	"cowl/internal/errs"
)

// Archive is an archive that is read as the tree that unpacking it would make.
// It is for one goroutine at a time, its files and trees included.
//
// What is known of all members is held: 140 bytes for each and its name, of a sparse
// file also its map, attributes unless they are those of the member before.
type Archive struct {
	in *stream
	o  OpenOptions

	names  chunks[name]
	inodes chunks[inode]
	sums   chunks[Sum] // by inode, where they were asked for
	unread int32       // the inode whose content is damaged, 0 if there is none
	table  []int32     // names by hash, 0 where there is none: the root is never looked up
	seed   maphash.Seed
	xattrs []Xattr // of the last member that has any
	used   int64   // bytes of memory, about

	entries int64
	damage  error // that ends what is known
	skipped error // the first member that is left out
	skips   int64
}

// name is a name in a directory.
type name struct {
	name        string
	parent, ino int32
	first, next int32 // what is in it, and what else is in the parent; 0 for nothing
}

// inode is a file, whatever its names.
type inode struct {
	mode, links         uint32
	uid, gid            uint32
	major, minor        uint32
	size                int64 // as the file has it
	at                  int64 // of its content in the archive, without a map
	mtime, atime, ctime moment
	more                *more
}

// more is what few files have.
type more struct {
	target string
	xattrs []Xattr
	sparse *spanList
}

// OpenOptions say how to read an archive. The zero options are sensible.
type OpenOptions struct {
	// Sums has the sum of each file's content computed on the way, so that it is
	// not read again to be compared.
	Sums bool
	// Until ends the reading at the content of the first regular file of that
	// path: for archives in which no name occurs twice.
	Until string
	// MaxMemory bounds what is held, in bytes; 0 is 1 GiB.
	MaxMemory int64
}

const defaultMemory = 1 << 30

// root is the number of the directory that holds all, as a name and as an inode.
const root = 0

// rootMode is of the root, and of directories that an archive has files in without
// saying so.
const rootMode = ModeDir | 0o755

// Open reads an archive of size bytes once, decompressing it if it has to, and
// holds what is needed to read members one by one. POSIX archives (ustar, pax),
// GNU tar's and older ones are understood, with GNU's four forms of sparse
// files; parts of archives in several volumes are not.
//
// As when it is unpacked, what comes later replaces what has its name, but for
// a directory that has something in it. Names count from the root, whether they
// begin with "/", "./" or nothing.
//
// The error is of kind errs.NotFound if it is no archive. What is damaged further
// on is no error here: Err and Trees tell of it.
//
// What is read of the archive later ends with ctx as well.
func Open(ctx context.Context, file io.ReaderAt, size int64, o OpenOptions) (*Archive, error) {
	in, err := newStream(ctx, file, size)
	if err != nil {
		return nil, err
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = defaultMemory
	}
	a := &Archive{in: in, o: o, seed: maphash.MakeSeed(), table: make([]int32, 1<<10)}
	a.names.add()
	a.newInode(inode{mode: rootMode, links: 2})
	if err := (&pass{a: a, ctx: ctx, in: in, global: noRecords()}).run(); err != nil {
		in.close()
		return nil, err
	}
	return a, nil
}

// Close ends what decompresses. The file stays open.
func (a *Archive) Close() error {
	a.in.close()
	return nil
}

// Entries is how many members were read, those that were replaced included.
func (a *Archive) Entries() int64 { return a.entries }

// Err is nil if all of the archive could be understood.
func (a *Archive) Err() error {
	switch {
	case a.damage != nil:
		return a.damage
	case a.skips > 1:
		return errs.E(errs.KindOf(a.skipped), "%d members cannot be had as they are, the first: %w", a.skips, a.skipped)
	}
	return a.skipped
}

// skip leaves a member out.
func (a *Archive) skip(path string, err error) {
	if a.skips++; a.skipped == nil {
		a.skipped = fmt.Errorf("%q: %w", path[:min(len(path), 200)], err)
	}
}

// charge counts memory.
func (a *Archive) charge(n int64) error {
	if a.used += n; a.used > a.o.MaxMemory {
		return errs.WithHint(errs.E(errs.Unsupported, "the archive has too many members: to know them takes more than %d MiB of memory", a.o.MaxMemory>>20),
			"tar -xf unpacks it without.")
	}
	return nil
}

const (
	// slotBytes is what a name takes in the table, where a third is free at least
	// and two thirds at most.
	slotBytes = 12
	moreBytes = 64
	// xattrBytes is what an attribute takes beside its name and value.
	xattrBytes = 64
)

func (a *Archive) newInode(n inode) (int32, error) {
	no := a.inodes.add()
	*a.inodes.at(no) = n
	cost := a.inodes.size()
	if a.o.Sums {
		a.sums.add()
		cost += a.sums.size()
	}
	if n.more != nil {
		cost += moreBytes + int64(len(n.more.target))
		if n.more.sparse != nil {
			cost += int64(cap(n.more.sparse.code))
		}
	}
	return no, a.charge(cost)
}

// slot is where a name is in the table, or belongs.
func (a *Archive) slot(parent int32, base string) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	h.WriteString(base)
	maphash.WriteComparable(&h, parent)
	mask := uint64(len(a.table) - 1)
	for i := h.Sum64() & mask; ; i = (i + 1) & mask {
		n := a.table[i]
		if n == 0 {
			return i
		}
		if at := a.names.at(n); at.parent == parent && at.name == base {
			return i
		}
	}
}

// find returns what a directory has under a name, 0 for nothing.
func (a *Archive) find(parent int32, base string) int32 { return a.table[a.slot(parent, base)] }

// put makes a name.
func (a *Archive) put(parent int32, base string, ino int32) (int32, error) {
	if 3*a.names.n >= 2*len(a.table) {
		old := a.table
		a.table = make([]int32, 2*len(old))
		for _, n := range old {
			if n != 0 {
				at := a.names.at(n)
				a.table[a.slot(at.parent, at.name)] = n
			}
		}
	}
	no := a.names.add()
	dir := a.names.at(parent)
	*a.names.at(no) = name{name: strings.Clone(base), parent: parent, ino: ino, next: dir.first}
	dir.first = no
	a.table[a.slot(parent, base)] = no
	return no, a.charge(a.names.size() + slotBytes + int64(len(base)))
}

// isDir tells whether a name is a directory's.
func (a *Archive) isDir(no int32) bool {
	return a.inodes.at(a.names.at(no).ino).mode&ModeType == ModeDir
}

// maxDepth bounds how deep directories are nested.
const maxDepth = 4096

// split returns the names on the way to a path, and its own.
func split(path string) (dirs []string, base string, err error) {
	if len(path) > maxName {
		return nil, "", errTooLong(int64(len(path)))
	}
	for c := range strings.SplitSeq(path, "/") {
		switch c {
		case "", ".":
			continue
		case "..":
			return nil, "", errs.E(errs.Unsupported, "the name leads out of a directory")
		}
		if base != "" {
			dirs = append(dirs, base)
		}
		base = c
	}
	if len(dirs) > maxDepth {
		return nil, "", errs.E(errs.Unsupported, "directories are nested too deeply")
	}
	return dirs, base, nil
}

// dir returns the directory of these names. What is missing of it is made, as
// unpacking would.
func (a *Archive) dir(dirs []string, mtime moment) (int32, error) {
	at := int32(root)
	for _, d := range dirs {
		no := a.find(at, d)
		if no == 0 {
			ino, err := a.newInode(inode{mode: rootMode, links: 2, mtime: mtime, atime: mtime, ctime: mtime})
			if err == nil {
				no, err = a.put(at, d, ino)
			}
			if err != nil {
				return 0, fatal{err}
			}
			a.inodes.at(a.names.at(at).ino).links++
		} else if !a.isDir(no) {
			return 0, errs.E(errs.Corrupt, "it is in %q, which is no directory", d)
		}
		at = no
	}
	return at, nil
}

// fatal is an error that ends the reading, and not only the member at hand.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// member is what an archive says of one file.
type member struct {
	path, link string
	kind       byte
	inode
	stored int64 // bytes of content, a map included
	wrong  error // why it is left out
}

// add takes a member into the tree. An error concerns it only, unless it is fatal.
func (a *Archive) add(m *member) error {
	dirs, base, err := split(m.path)
	if err != nil {
		return err
	}
	if base == "" {
		return a.addRoot(m)
	}
	dir, err := a.dir(dirs, m.mtime)
	if err != nil {
		return err
	}
	no := a.find(dir, base)
	if m.kind == tarLink {
		return a.addLink(m, dir, base, no)
	}
	isDir := m.kind == tarDir
	switch {
	case no != 0 && isDir && a.isDir(no):
		return a.again(no, m)
	case no != 0 && a.isDir(no) && a.names.at(no).first != 0:
		return errs.E(errs.Unsupported, "there is a directory of that name, with files in it")
	}
	ino, err := a.newInode(m.inode)
	if err != nil {
		return fatal{err}
	}
	a.inodes.at(ino).links = 1
	if isDir {
		a.inodes.at(ino).links = 2
	}
	return a.name(dir, base, no, ino)
}

// name gives an inode a name in a directory, in the place of no if that is not 0.
func (a *Archive) name(dir int32, base string, no, ino int32) error {
	up := a.inodes.at(a.names.at(dir).ino)
	if no != 0 {
		old := a.inodes.at(a.names.at(no).ino)
		if old.links--; old.mode&ModeType == ModeDir {
			up.links--
		}
		a.names.at(no).ino = ino
	} else if _, err := a.put(dir, base, ino); err != nil {
		return fatal{err}
	}
	if a.inodes.at(ino).mode&ModeType == ModeDir {
		up.links++
	}
	return nil
}

// again takes what is said of a directory once more.
func (a *Archive) again(no int32, m *member) error {
	at := a.inodes.at(a.names.at(no).ino)
	links := at.links
	*at = m.inode
	at.links = links
	if at.more == nil {
		return nil
	}
	if err := a.charge(moreBytes); err != nil {
		return fatal{err}
	}
	return nil
}

func (a *Archive) addRoot(m *member) error {
	if m.kind != tarDir {
		return errs.E(errs.Corrupt, "it has no name")
	}
	return a.again(root, m)
}

// addLink takes a further name of a file that came before. One that is to come is
// none yet, so there are no circles.
func (a *Archive) addLink(m *member, dir int32, base string, no int32) error {
	dirs, target, err := split(m.link)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", m.link[:min(len(m.link), 200)], err)
	}
	to := int32(root)
	for _, d := range append(dirs, target) {
		if to = a.find(to, d); to == 0 {
			break
		}
	}
	switch {
	case to == 0:
		return errs.E(errs.Corrupt, "hard link to %q, which does not come before it", m.link)
	case to == no:
		return nil
	case a.isDir(to):
		return errs.E(errs.Corrupt, "hard link to %q, which is a directory", m.link)
	case no != 0 && a.isDir(no):
		return errs.E(errs.Unsupported, "there is a directory of that name")
	}
	ino := a.names.at(to).ino
	a.inodes.at(ino).links++
	return a.name(dir, base, no, ino)
}

// time returns a moment as others have it.
func (m moment) time() time.Time { return time.Unix(m.sec, int64(m.ns)) }

package fsread_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/file"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
	"cowl/internal/fsread/fstree"
)

// open opens an image until the test ends.
func open(t testing.TB, image string) *fsread.FS {
	t.Helper()
	dev, err := file.Open(image, file.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	fs, err := fsread.Open(context.Background(), dev, fsread.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// ours records a tree as package fsread shows it.
func ours(t testing.TB, fs *fsread.FS) []fstree.Record {
	t.Helper()
	root, err := fs.Lookup("/", true)
	if err != nil {
		t.Fatal(err)
	}
	var out []fstree.Record
	err = fs.Walk(context.Background(), root, fsread.WalkOptions{}, func(it *fsread.Item) error {
		if it.Err != nil {
			return fmt.Errorf("%s: %w", it.Path, it.Err)
		}
		r, err := record(fs, it.Node)
		if err != nil {
			return fmt.Errorf("%s: %w", it.Path, err)
		}
		r.Path = it.Path
		out = append(out, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func record(fs *fsread.FS, n *fsread.Node) (r fstree.Record, err error) {
	// What FS_IOC_GETFLAGS shows.
	const visibleFlags = 0x705bdfff
	r = fstree.Record{
		Ino: uint64(n.Ino), Mode: uint32(n.Mode), Links: uint32(n.Links), UID: n.UID, GID: n.GID, Size: n.Size, Blocks: int64(n.Blocks()),
		Mtime: fstree.Time(n.Mtime.Unix(), int64(n.Mtime.Nanosecond())), Atime: fstree.Time(n.Atime.Unix(), int64(n.Atime.Nanosecond())),
		Ctime: fstree.Time(n.Ctime.Unix(), int64(n.Ctime.Nanosecond())),
	}
	if !n.Crtime.IsZero() {
		r.Btime = fstree.Time(n.Crtime.Unix(), int64(n.Crtime.Nanosecond()))
	}
	attrs, err := fs.Xattrs(n)
	if err != nil {
		return r, err
	}
	for _, a := range attrs {
		r.Xattrs = append(r.Xattrs, fstree.Quote(a.Name, a.Value))
	}
	switch n.Mode.Type() {
	case ext4.TypeChar, ext4.TypeBlock:
		r.Major, r.Minor = n.Device()
	case ext4.TypeSymlink:
		r.Link, err = fs.Readlink(n)
	case ext4.TypeDir:
		r.Flags, r.Project = uint32(n.Flags)&visibleFlags, n.Project
	case ext4.TypeFile:
		r.Flags, r.Project = uint32(n.Flags)&visibleFlags, n.Project
		err = content(fs, n, &r)
	}
	return r, err
}

func content(fs *fsread.FS, n *fsread.Node, r *fstree.Record) error {
	f, err := fs.OpenFile(n)
	if err != nil {
		return err
	}
	for e, err := range f.Extents(0, f.Size()) {
		if err != nil {
			return err
		}
		if e.Kind != fsread.Hole && e.Phys >= 0 {
			r.Extents = append(r.Extents, fstree.Extent{Off: e.Off, Len: e.Len, Phys: e.Phys, Unwritten: e.Kind == fsread.Unwritten})
		}
	}
	r.Extents = fstree.Join(r.Extents, n.Size)
	r.Sum, err = fstree.Sum(f, n.Size, r.Extents)
	return err
}

// scale is what a variant's tree has. Directories have hash trees of two levels
// from some 20,000 entries on in the smallest blocks.
func (v variant) scale() fstree.Scale {
	switch {
	case blocktest.Long():
		return fstree.Scale{Entries: 50_000, Extents: 50_000, Sparse: 5 << 30}
	case v.large:
		return fstree.Scale{Entries: 10_000, Extents: 3000, Sparse: 5 << 30}
	}
	return fstree.Scale{Entries: 500, Extents: 400, Sparse: 5 << 30}
}

// compare mounts a copy of the image and compares what the kernel shows of it
// with what we show of the image itself.
func compare(t *testing.T, image string, except ...string) *fsread.FS {
	t.Helper()
	fs := open(t, image)
	got := ours(t, fs)
	dir, release := fstree.Mount(t, fstree.Copy(t, image), "ro")
	defer release()
	want := fstree.Kernel(t, dir)
	diff := fstree.Diff(want, got, except...)
	for i, line := range diff {
		if i == 30 {
			t.Errorf("and %d more", len(diff)-i)
			break
		}
		t.Error(line)
	}
	lookups(t, fs, want)
	t.Logf("%d entries compared, %+v", len(want), fs.Info().Replay)
	return fs
}

// lookups finds some of the files by their paths.
func lookups(t *testing.T, fs *fsread.FS, want []fstree.Record) {
	t.Helper()
	for i := 0; i < len(want); i += 1 + len(want)/100 {
		if n, err := fs.Lookup(want[i].Path, false); err != nil || uint64(n.Ino) != want[i].Ino {
			t.Errorf("%q: %v", want[i].Path, err)
		}
	}
}

// variant is how a file system of the matrix is made.
type variant struct {
	mke2fs string
	// later are commands on the unmounted image, for features with which the
	// running kernel mounts read-only at best.
	later []string
	// large trees are the same in all variants when tests run in full; otherwise
	// these have them.
	large bool
	// brief variants are tested also when tests do not run in full.
	brief bool
}

var variants = map[string]variant{
	"ext2 1k":             {mke2fs: "-t ext2 -b 1024", brief: true},
	"ext2 4k":             {mke2fs: "-t ext2 -b 4096"},
	"ext2 revision 0":     {mke2fs: "-t ext2 -b 1024 -r 0 -O none"},
	"ext2 small inodes":   {mke2fs: "-t ext2 -b 4096 -I 128 -O ^filetype,^dir_index", brief: true},
	"ext3 1k":             {mke2fs: "-t ext3 -b 1024"},
	"ext3 4k":             {mke2fs: "-t ext3 -b 4096 -I 128"},
	"ext4 1k":             {mke2fs: "-t ext4 -b 1024"},
	"ext4 2k":             {mke2fs: "-t ext4 -b 2048"},
	"ext4 4k":             {mke2fs: "-t ext4 -b 4096", large: true, brief: true},
	"no extents 1k":       {mke2fs: "-t ext4 -b 1024 -O ^extents,^64bit"},
	"no extents 4k":       {mke2fs: "-t ext4 -b 4096 -O ^extents,^64bit", brief: true},
	"inline data":         {mke2fs: "-t ext4 -b 4096 -I 256 -O inline_data"},
	"inline data large":   {mke2fs: "-t ext4 -b 4096 -I 1024 -O inline_data"},
	"inline data no csum": {mke2fs: "-t ext4 -b 1024 -I 512 -O inline_data,^metadata_csum"},
	"no checksums":        {mke2fs: "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg"},
	"crc16":               {mke2fs: "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg"},
	"crc16 64bit":         {mke2fs: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit", brief: true},
	"crc16 32bit":         {mke2fs: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit"},
	"csum seed":           {mke2fs: "-t ext4 -b 4096 -O metadata_csum_seed", later: []string{"tune2fs -U random"}},
	"32bit":               {mke2fs: "-t ext4 -b 4096 -O ^64bit"},
	"meta_bg":             {mke2fs: "-t ext4 -b 1024 -O meta_bg,^resize_inode", brief: true},
	"meta_bg 4k":          {mke2fs: "-t ext4 -b 4096 -O meta_bg,^resize_inode,^flex_bg"},
	"no flex_bg":          {mke2fs: "-t ext4 -b 1024 -O ^flex_bg"},
	"sparse_super2":       {mke2fs: "-t ext4 -b 1024 -O sparse_super2,^resize_inode,meta_bg"},
	"bigalloc":            {mke2fs: "-t ext4 -b 4096 -C 65536 -O bigalloc"},
	"bigalloc 1k":         {mke2fs: "-t ext4 -b 1024 -C 16384 -O bigalloc", brief: true},
	"bigalloc meta_bg":    {mke2fs: "-t ext4 -b 1024 -C 4096 -O bigalloc,meta_bg,^resize_inode"},
	"ea_inode":            {mke2fs: "-t ext4 -b 4096 -O ea_inode"},
	"ea_inode inline":     {mke2fs: "-t ext4 -b 1024 -O ea_inode,inline_data", brief: true},
	"large inodes":        {mke2fs: "-t ext4 -b 4096 -I 4096"},
	"no journal":          {mke2fs: "-t ext4 -b 4096 -O ^has_journal"},
	"no dir_index":        {mke2fs: "-t ext4 -b 4096 -O ^dir_index"},
	"large_dir":           {mke2fs: "-t ext4 -b 1024 -O large_dir"},
	"mmp":                 {mke2fs: "-t ext4 -b 4096 -O mmp"},
	"orphan file":         {mke2fs: "-t ext4 -b 4096 -O orphan_file"},
	"small groups":        {mke2fs: "-t ext4 -b 1024 -g 1024 -N 200000"},
	"quota and projects": {mke2fs: "-t ext4 -b 4096 -I 256", brief: true, later: []string{"tune2fs -O project,quota",
		"debugfs -w -R sif\x20/plain\x20projid\x201234", "debugfs -w -R sif\x20/d\x20projid\x204000000000"}},
	"read-only": {mke2fs: "-t ext4 -b 1024 -O sparse_super2", later: []string{"tune2fs -O read-only", "tune2fs -L a_label"}},
}

// Every combination of features that the running kernel mounts.
func TestMatrix(t *testing.T) {
	for name, v := range variants {
		if !v.brief && !blocktest.Long() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := fstree.Image(t, 1<<30, strings.Fields(v.mke2fs)...)
			dir, release := fstree.Mount(t, image, "rw,user_xattr,acl")
			fstree.Nasty(t, dir, v.scale())
			fstree.Run(t, "chattr", "+d", filepath.Join(dir, "size-4096"))
			release()
			for _, cmd := range v.later {
				args := strings.Fields(cmd)
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], `\x20`, " ")
				}
				fstree.Run(t, append(args, image)...)
			}
			compare(t, image)
		})
	}
}

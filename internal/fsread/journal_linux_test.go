package fsread_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cowl/internal/block/blocktest"
	"cowl/internal/fsread/fstree"
)

// dirty fills a mounted file system and goes on changing it, so that the
// journal has been round several times, blocks were freed and used again as
// data, and the last transactions are in the journal only.
func dirty(t *testing.T, dir string, rounds int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(format string, args ...any) string { return filepath.Join(dir, fmt.Sprintf(format, args...)) }
	magic := append([]byte{0xc0, 0x3b, 0x39, 0x98}, bytes.Repeat([]byte("escaped"), 2000)...)
	for round := range rounds {
		must(os.MkdirAll(path("round-%d", round), 0o755))
		for i := range 60 {
			must(os.WriteFile(path("round-%d/file-%d", round, i), bytes.Repeat([]byte{byte(round), byte(i)}, 50*i), 0o644))
			must(os.Symlink(strings.Repeat("l", 100), path("round-%d/link-%d", round, i)))
		}
		must(os.WriteFile(path("magic-%d", round), magic, 0o644))
		must(unix.Lsetxattr(path("magic-%d", round), "user.round", bytes.Repeat([]byte{'r'}, 300), 0))
		if round >= 3 { // what was a directory's becomes free, and data
			must(os.RemoveAll(path("round-%d", round-3)))
			must(os.WriteFile(path("reused-%d", round), bytes.Repeat([]byte("reused "), 10_000), 0o644))
		}
		must(os.Truncate(path("magic-0"), int64(13000-round)))
		fstree.Run(t, "sync", "-f", dir)
	}
}

// What is in the journal only must be seen as the kernel sees it after its
// recovery, and the image must stay as it is.
func TestDirtyJournal(t *testing.T) {
	for name, v := range map[string]struct {
		mke2fs, options string
		brief           bool
	}{
		"ext3":           {"-t ext3 -b 1024 -J size=1", "rw", true},
		"ext3 32bit 4k":  {"-t ext3 -b 4096 -J size=4", "rw,data=journal", false},
		"ext4":           {"-t ext4 -b 1024 -J size=1", "rw", false},
		"data in it":     {"-t ext4 -b 1024 -J size=2", "rw,data=journal", true},
		"data in it 4k":  {"-t ext4 -b 4096 -J size=8", "rw,data=journal", false},
		"no checksums":   {"-t ext4 -b 4096 -J size=4 -O ^metadata_csum,64bit", "rw,data=journal", true},
		"32bit":          {"-t ext4 -b 4096 -J size=4 -O ^64bit", "rw,data=journal", false},
		"checksum v1":    {"-t ext4 -b 1024 -J size=1 -O ^metadata_csum", "rw,journal_checksum", false},
		"v1 with data":   {"-t ext4 -b 1024 -J size=2 -O ^metadata_csum,^64bit", "rw,data=journal,journal_checksum", true},
		"async commit":   {"-t ext4 -b 1024 -J size=1", "rw,journal_async_commit,data=writeback", false},
		"orphans":        {"-t ext4 -b 1024 -J size=1 -O orphan_file", "rw", false},
		"no fast commit": {"-t ext4 -b 4096 -J size=8 -O fast_commit", "rw", false},
	} {
		if !v.brief && !blocktest.Long() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := fstree.Image(t, 64<<20, strings.Fields(v.mke2fs)...)
			dir, _ := fstree.Mount(t, image, v.options)
			dirty(t, dir, 12)
			// Deleted, but in use: it has no name, and no content that anybody
			// can see.
			f, err := os.Create(filepath.Join(dir, "deleted"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(bytes.Repeat([]byte("deleted"), 1000)); err != nil {
				t.Fatal(err)
			}
			os.Remove(f.Name())
			fstree.Run(t, "sync", "-f", dir)

			frozen := fstree.Copy(t, image)
			before := fstree.Sum256(t, frozen)
			fs := compare(t, frozen)
			if r := fs.Info().Replay; r.Transactions == 0 || r.Blocks == 0 {
				t.Errorf("nothing was replayed: %+v", r)
			}
			if fstree.Sum256(t, frozen) != before {
				t.Error("the image has changed")
			}
		})
	}
}

package archive

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/fsread/fstree"
	"cowl/internal/judge"
)

// open reads an archive in a file.
func open(t testing.TB, path string, o OpenOptions) *Archive {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(context.Background(), f, st.Size(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// What GNU tar packed, in each of its formats, and what we did, is read and packed
// again, and GNU tar must find in that what there was in the beginning.
func TestOpenAgainstGNUTar(t *testing.T) {
	judge.Need(t, "tar")
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nasty(t, dir)
	const xattrs = "--xattrs --xattrs-include=* --acls"
	old := []string{"mtime", "xattrs"} // not in what there was before pax
	for name, c := range map[string]struct {
		options string
		except  []string
	}{
		"ours":       {},
		"pax":        {options: "--format=pax --sparse " + xattrs},
		"sparse 0.0": {options: "--format=pax --sparse --sparse-version=0.0 " + xattrs},
		"sparse 0.1": {options: "--format=pax --sparse --sparse-version=0.1 " + xattrs},
		"gnu":        {options: "--format=gnu --sparse", except: old},
		"gzip":       {options: "--format=pax --sparse -z " + xattrs},
		"zstd":       {options: "--format=gnu --sparse --zstd", except: old},
		"no dots":    {options: "--format=pax --sparse --transform=s,^\\./,, " + xattrs},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.tar")
			if c.options == "" {
				path, _, _ = write(t, Dir{Root: dir})
			} else {
				args := append(strings.Fields(c.options), "--numeric-owner", "-C", dir, "-cf", path, ".")
				if out, err := exec.Command("tar", args...).CombinedOutput(); err != nil && !strings.Contains(string(out), "socket ignored") {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			a := open(t, path, OpenOptions{})
			if err := a.Err(); err != nil {
				t.Fatal(err)
			}
			again, stats, notes := write(t, Members{Archive: a})
			if len(notes) > 0 || stats.Entries < 250 {
				t.Errorf("%+v, notes %q", stats, notes)
			}
			if p, err := a.Lookup("plain", false); err != nil || a.File(p).Header().Links != 3 {
				t.Errorf("plain: %v, or not 3 links", err)
			}
			if c.except == nil {
				comparedByTar(t, again, dir)
				byNames(t, again, dir)
			}
			if c.options != "" { // tar keeps no links of pipes
				c.except = append(c.except, "links")
			}
			unpackedByTar(t, again, dir, c.except...)
		})
	}
}

// One file of each kind of compression, without reading on, and by links.
func TestOpenUntil(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "first", "m": "middle", "z": "last"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(text, 100_000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []string{"", "-z", "--zstd"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		fstree.Run(t, append([]string{"tar"}, strings.Fields("-C "+dir+" -cf "+path+" "+c+" ./a ./m ./z")...)...)
		a := open(t, path, OpenOptions{Until: "/m"})
		if a.Entries() != 2 {
			t.Errorf("%s: %d entries were read, want 2", c, a.Entries())
		}
		p, err := a.Lookup("/m", true)
		if err != nil {
			t.Fatal(err)
		}
		content, err := a.File(p).Open()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 600_000)
		if n, err := content.ReadAt(b, 0); n != len(b) || err != nil || string(b) != strings.Repeat("middle", 100_000) {
			t.Errorf("%s: %d bytes, %v", c, n, err)
		}
		if _, err := a.Lookup("/z", true); !errs.Is(err, errs.NotFound) {
			t.Errorf("what comes later: %v", err)
		}
	}
}

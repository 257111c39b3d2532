package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/archive"
)

// Archives come from strangers. Whatever the names in one are, and whatever links
// lead where, nothing outside is touched, and the rest is unpacked.
func TestHostileArchives(t *testing.T) {
	for name, members := range map[string][]tar.Header{
		"name":              {{Name: "../outside/secret"}},
		"absolute name":     {{Name: "/outside/secret"}},
		"name in between":   {{Name: "a/../../outside/secret"}},
		"behind a link":     {{Name: "out", Linkname: "../outside", Typeflag: tar.TypeSymlink}, {Name: "out/secret"}},
		"behind two":        {{Name: "up", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "out", Linkname: "up/outside", Typeflag: tar.TypeSymlink}, {Name: "out/secret"}},
		"link then folder":  {{Name: "out", Linkname: "../outside", Typeflag: tar.TypeSymlink}, {Name: "out/", Typeflag: tar.TypeDir, Mode: 0o777}, {Name: "out/secret"}},
		"folder then link":  {{Name: "out/secret"}, {Name: "out", Linkname: "../outside", Typeflag: tar.TypeSymlink}, {Name: "out/secret"}},
		"file through link": {{Name: "out", Linkname: "../outside/secret", Typeflag: tar.TypeSymlink}, {Name: "out"}},
		"hard link":         {{Name: "hard", Linkname: "../outside/secret", Typeflag: tar.TypeLink}, {Name: "hard"}},
		"hard link by link": {{Name: "out", Linkname: "../outside", Typeflag: tar.TypeSymlink}, {Name: "hard", Linkname: "out/secret", Typeflag: tar.TypeLink}},
		"hard link of link": {{Name: "out", Linkname: "../outside/secret", Typeflag: tar.TypeSymlink}, {Name: "hard", Linkname: "out", Typeflag: tar.TypeLink}},
	} {
		t.Run(name, func(t *testing.T) {
			dest, check := world(t)
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range append(members, tar.Header{Name: "last"}) {
				if h.Typeflag == 0 {
					h.Typeflag, h.Size = tar.TypeReg, 3
				}
				h.Mode |= 0o600
				h.Uid, h.Gid = os.Geteuid(), os.Getegid()
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if h.Size > 0 {
					w.Write([]byte("bad"))
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			a, err := archive.Open(context.Background(), bytes.NewReader(b.Bytes()), int64(b.Len()), archive.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			for _, overwrite := range []bool{false, true} {
				o := Options{Overwrite: overwrite, Failed: func(string, error) error { return nil }}
				if _, err := Unpack(context.Background(), archive.Members{Archive: a}, Place{dest, "."}, o); err != nil {
					t.Fatal(err)
				}
				check()
			}
			if _, err := os.Stat(filepath.Join(dest, "last")); err != nil {
				t.Error(err)
			}
			if found, err := os.ReadFile(filepath.Join(dest, "..", "outside", "secret")); err != nil || strings.Contains(string(found), "bad") {
				t.Errorf("outside there is %q, %v", found, err)
			}
		})
	}
}

package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"

	"cowl/internal/errs"
)

// tarball is made by hand.
type tarball struct{ bytes.Buffer }

// add appends an entry of which change may spoil the header; the checksum is right.
func (b *tarball) add(kind byte, name, link string, content string, change ...func(*header)) *tarball {
	var h header
	fixedHeader(h[:], &entry{Header: &Header{Mode: 0o644, Mtime: time.Unix(1, 0)}, kind: kind, link: link}, name, int64(len(content)))
	for _, f := range change {
		f(&h)
	}
	h.repair()
	b.Write(h[:])
	b.WriteString(content)
	b.Write(zeroes[:padding(int64(len(content)))])
	return b
}

// repair sets a header's checksum.
func (h *header) repair() {
	copy(h.checksum(), "        ")
	sum := int64(0)
	for _, c := range h {
		sum += int64(c)
	}
	octal(h.checksum()[:7], sum)
}

// repaired has the checksums of all that looks like a header set, or little that is
// changed at random would be looked at.
func repaired(raw []byte) []byte {
	raw = bytes.Clone(raw)
	for b := raw; len(b) >= tarBlock; b = b[tarBlock:] {
		if h := (*header)(b); string(h[257:262]) == "ustar" {
			h.repair()
		}
	}
	return raw
}

func (b *tarball) records(rs ...record) *tarball {
	return b.add(tarExtra, "x", "", string(appendRecords(nil, rs)))
}

func (b *tarball) end() []byte {
	b.Write(zeroes[:2*tarBlock])
	return b.Bytes()
}

func openBytes(t testing.TB, b []byte, o OpenOptions) (*Archive, error) {
	t.Helper()
	a, err := Open(context.Background(), bytes.NewReader(b), int64(len(b)), o)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// tree lists what is in an archive, "path -> target" and "path = content".
func (a *Archive) list(t testing.TB) (out []string) {
	t.Helper()
	err := Members{Archive: a, ByName: true}.Walk(context.Background(), func(name string, f File, err error) error {
		switch {
		case err != nil:
			out = append(out, "error")
		case f.Header().Mode&ModeType == ModeLink:
			target, _ := f.Readlink()
			out = append(out, name+" -> "+target)
		case f.Header().Mode&ModeType == ModeFile && f.Header().Size < 100:
			c, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, f.Header().Size)
			if _, err := c.ReadAt(b, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			out = append(out, name+" = "+string(b))
		default:
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sized(field func(*header) []byte, b ...byte) func(*header) {
	return func(h *header) { copy(field(h), append(make([]byte, 12-len(b)), b...)) }
}

// Whatever an archive claims, it is an error or a member that is left out, what
// came before it is there, and memory is taken for what there is only.
func TestOpenHostile(t *testing.T) {
	huge := sized((*header).size, 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	binary := func(b ...byte) func(*header) {
		return func(h *header) {
			sized((*header).size, b...)(h)
			h.size()[0] |= 0x80
		}
	}
	long := strings.Repeat("a/", 40_000)
	for name, c := range map[string]struct {
		make func(*tarball)
		want string // of the error
		kind errs.Kind
	}{
		"name of 1 GiB":    {func(b *tarball) { b.add(gnuLongName, "L", "", "", binary(0x40, 0, 0, 0)) }, "an extended header of 1073741824 bytes", errs.Unsupported},
		"records of 1 TiB": {func(b *tarball) { b.add(tarExtra, "x", "", "", binary(1, 0, 0, 0, 0, 0)) }, "an extended header of 1099511627776 bytes", errs.Unsupported},
		"size near 2^63":   {func(b *tarball) { b.add(tarFile, "x", "", "", binary(0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)) }, "a size of 9223372036854775807", errs.Corrupt},
		"size of 2^62":     {func(b *tarball) { b.add(tarFile, "x", "", "", binary(0x40, 0, 0, 0, 0, 0, 0, 0)) }, "it ends there", errs.Corrupt},
		"size beyond":      {func(b *tarball) { b.add(tarFile, "x", "", "", binary(0x80, 0, 0, 0, 0, 0, 0, 0)) }, "more than 63 bits", errs.Corrupt},
		"negative size": {func(b *tarball) {
			b.add(tarFile, "x", "", "", func(h *header) { copy(h.size(), "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00") })
		}, "a size of -256", errs.Corrupt},
		"no number": {func(b *tarball) { b.add(tarFile, "x", "", "", func(h *header) { copy(h.size(), "ninety") }) }, "no octal number", errs.Corrupt},
		"map of billions": {func(b *tarball) {
			b.records(record{"GNU.sparse.major", "1"}, record{"GNU.sparse.minor", "0"}, record{"GNU.sparse.realsize", "9223372036854775807"})
			b.add(tarFile, "x", "", "4000000000\n0\n1\n2\n1\n")
		}, "no number", errs.Corrupt},
		"map that overlaps": {func(b *tarball) {
			b.records(record{"GNU.sparse.map", "0,10,5,10"}, record{"GNU.sparse.size", "100"}).add(tarFile, "x", "", strings.Repeat("x", 20))
		}, "do not follow", errs.Corrupt},
		"map beyond 2^63": {func(b *tarball) {
			b.records(record{"GNU.sparse.map", "9223372036854775807,10"}, record{"GNU.sparse.size", "100"}).add(tarFile, "x", "", strings.Repeat("x", 10))
		}, "do not follow", errs.Corrupt},
		"map beyond the size": {func(b *tarball) {
			b.records(record{"GNU.sparse.map", "95,10"}, record{"GNU.sparse.size", "100"}).add(tarFile, "x", "", strings.Repeat("x", 10))
		}, "the map has 10 bytes up to byte 105", errs.Corrupt},
		"map of more than there is": {func(b *tarball) {
			b.records(record{"GNU.sparse.map", "0,10"}, record{"GNU.sparse.size", "100"}).add(tarFile, "x", "", "xxxxx")
		}, "the archive 5", errs.Corrupt},
		"link to itself":    {func(b *tarball) { b.add(tarLink, "x", "x", "") }, "does not come before it", errs.Corrupt},
		"links in a circle": {func(b *tarball) { b.add(tarLink, "x", "y", "").add(tarLink, "y", "x", "") }, "does not come before it", errs.Corrupt},
		"link to the root":  {func(b *tarball) { b.add(tarLink, "x", "./", "") }, "does not come before it", errs.Corrupt},
		"link to outside":   {func(b *tarball) { b.add(tarLink, "x", "../../etc/shadow", "") }, "out of a directory", errs.Unsupported},
		"link to directory": {func(b *tarball) {
			b.add(tarLink, "x", "before", "").add(tarDir, "d/", "", "").add(tarLink, "y", "d", "")
		}, "is a directory", errs.Corrupt},
		"name that leads out": {func(b *tarball) { b.add(tarFile, "../../etc/passwd", "", "x") }, "out of a directory", errs.Unsupported},
		"name behind a link":  {func(b *tarball) { b.add(tarSymlink, "out", "/etc", "").add(tarFile, "out/passwd", "", "x") }, "which is no directory", errs.Corrupt},
		"name in a file":      {func(b *tarball) { b.add(tarFile, "before/x", "", "x") }, "which is no directory", errs.Corrupt},
		"name with NUL":       {func(b *tarball) { b.records(record{"path", "a\x00b"}).add(tarFile, "x", "", "x") }, "NUL byte", errs.Corrupt},
		"name too deep":       {func(b *tarball) { b.add(gnuLongName, "L", "", long[:60_000]).add(tarFile, "x", "", "x") }, "nested too deeply", errs.Unsupported},
		"name too long":       {func(b *tarball) { b.records(record{"path", long}).add(tarFile, "x", "", "x") }, "a name of 80000 bytes", errs.Unsupported},
		"record too long":     {func(b *tarball) { b.add(tarExtra, "x", "", "4000000000 path=x\n") }, "does not end in a line's end", errs.Corrupt},
		"record of no length": {func(b *tarball) { b.add(tarExtra, "x", "", "path=x\n") }, "has no length", errs.Corrupt},
		"owner":               {func(b *tarball) { b.records(record{"uid", "4294967296"}).add(tarFile, "x", "", "x") }, "is not a number of 32 bits", errs.Unsupported},
		"time":                {func(b *tarball) { b.records(record{"mtime", "9e99"}).add(tarFile, "x", "", "x") }, "no time", errs.Corrupt},
		"file for directory":  {func(b *tarball) { b.add(tarFile, "d/x", "", "x").add(tarFile, "d", "", "x") }, "with files in it", errs.Unsupported},
		"empty link":          {func(b *tarball) { b.add(tarSymlink, "x", "", "") }, "a symbolic link to 0 bytes", errs.Corrupt},
		"part of a volume":    {func(b *tarball) { b.add(gnuContinued, "x", "", "xyz") }, "goes on from another", errs.Unsupported},
		"cut off":             {func(b *tarball) { b.add(tarFile, "x", "", "x", huge) }, "no octal", errs.Corrupt},
		"bad checksum":        {func(b *tarball) { b.add(tarFile, "x", "", "x"); b.Bytes()[b.Len()-1024] ^= 1 }, "checksum is wrong", errs.Corrupt},
		"many attributes": {func(b *tarball) {
			var rs []record
			for i := range 10_000 {
				rs = append(rs, record{fmt.Sprintf("SCHILY.xattr.user.%d", i), "x"})
			}
			b.records(rs...).add(tarFile, "x", "", "x")
		}, "more than 4096 attributes", errs.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			var b tarball
			b.add(tarFile, "before", "", "good")
			c.make(&b)
			raw := b.end()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a, err := openBytes(t, raw, OpenOptions{Sums: true})
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Err(); err == nil || !strings.Contains(err.Error(), c.want) || errs.KindOf(err) != c.kind {
				t.Errorf("error %v (%v), want %q (%v)", err, errs.KindOf(err), c.want, c.kind)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
				t.Errorf("%d bytes of memory were taken for an archive of %d", n, len(raw))
			}
			list := strings.Join(a.list(t), "\n")
			if !strings.Contains(list, "./before = good") || !strings.Contains(list, "error") {
				t.Errorf("listed:\n%s", list)
			}
		})
	}
}

// A sparse file may be as large as numbers go, and costs nothing.
func TestOpenHugeHole(t *testing.T) {
	var b tarball
	b.records(record{"GNU.sparse.map", "0,1,9223372036854775806,1"}, record{"GNU.sparse.size", "9223372036854775807"}).add(tarFile, "x", "", "ab")
	a, err := openBytes(t, b.end(), OpenOptions{Sums: true})
	if err != nil || a.Err() != nil {
		t.Fatal(err, a.Err())
	}
	p, err := a.Lookup("x", false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.File(p).Open()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if n, err := c.ReadAt(got, math.MaxInt64-2); n != 2 || err != io.EOF || string(got[:2]) != "\x00b" {
		t.Errorf("%d bytes %q, %v", n, got, err)
	}
	known := *c.Sum
	c.Sum = nil
	if sum, err := SumOf(context.Background(), c, math.MaxInt64); err != nil || sum != known {
		t.Errorf("sum %x, %v; it was %x on the way", sum, err, known)
	}
}

// More members than there may be memory for are an error, and no crash.
func TestOpenMemory(t *testing.T) {
	var b tarball
	for i := range 5000 {
		b.add(tarFile, fmt.Sprint(i), "", "")
	}
	if _, err := openBytes(t, b.end(), OpenOptions{MaxMemory: 1 << 19}); !errs.Is(err, errs.Unsupported) || !strings.Contains(err.Error(), "too many members") {
		t.Error(err)
	}
	if a, err := openBytes(t, b.Bytes(), OpenOptions{MaxMemory: 1 << 20}); err != nil || a.Entries() != 5000 {
		t.Error(err)
	}
}

// What comes later counts, as when an archive is unpacked.
func TestOpenLater(t *testing.T) {
	var b tarball
	b.add(tarFile, "./a", "", "first").add(tarLink, "b", "/a", "").add(tarFile, "/a", "", "second").add(tarDir, "d", "", "").add(tarFile, "d", "", "file").
		add(tarSymlink, "e", "x", "").add(tarDir, "e", "", "").add(tarFile, "e/./f//g", "", "implied")
	a, err := openBytes(t, b.end(), OpenOptions{})
	if err != nil || a.Err() != nil {
		t.Fatal(err, a.Err())
	}
	want := "./ ./a = second ./b = first ./d = file ./e ./e/f ./e/f/g = implied"
	if got := strings.Join(a.list(t), " "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, name := range []string{"a", "b"} {
		if p, err := a.Lookup(name, true); err != nil || a.File(p).Header().Links != 1 {
			t.Errorf("%s has %d links, %v", name, a.File(p).Header().Links, err)
		}
	}
}

func TestOpenNothing(t *testing.T) {
	for name, b := range map[string][]byte{"empty": {}, "short": []byte("x"), "zeroes": make([]byte, 10240), "text": bytes.Repeat([]byte("text "), 1000),
		"gzip of text": packed(t, Gzip, bytes.Repeat([]byte("text "), 1000)), "gzip of zeroes": packed(t, Gzip, make([]byte, 1<<20)), "bad gzip": []byte("\x1f\x8bxxxxxxxxxxxxxxxx"),
		"bad zstd": []byte("\x28\xb5\x2f\xfdxxxxxxxxxxxxx")} {
		if _, err := openBytes(t, b, OpenOptions{}); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func packed(t testing.TB, c Compression, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := c.Pack(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A compressed archive that ends too early, or is damaged behind its last member,
// is never taken for whole.
func TestOpenDamagedCompression(t *testing.T) {
	var b tarball
	random := rand.NewChaCha8([32]byte{})
	for i := range 8 {
		content := make([]byte, 100*i) // in what repeats itself damage may make no difference
		random.Read(content)
		b.add(tarFile, fmt.Sprint(i), "", string(content))
	}
	for _, c := range []Compression{Gzip, Zstd} {
		whole := packed(t, c, b.end())
		for n := 20; n < len(whole); n += 1 + n%7 {
			if a, err := openBytes(t, whole[:n], OpenOptions{}); err == nil && a.Err() == nil {
				t.Fatalf("%s: %d of %d bytes are taken for all", c, n, len(whole))
			}
		}
		for n := 12; n < len(whole); n += 1 + n%7 {
			bad := bytes.Clone(whole)
			bad[n] ^= 0x10
			if a, err := openBytes(t, bad, OpenOptions{}); err == nil && a.Err() == nil && !unharmed(t, c, bad, b.Bytes()) {
				t.Errorf("%s: byte %d of %d is wrong, and nobody says so", c, n, len(whole))
			}
		}
	}
}

// unharmed tells whether damage made no difference, as in the bits of a code
// that does not occur.
func unharmed(t testing.TB, c Compression, b, want []byte) bool {
	t.Helper()
	r, err := c.Unpack(bytes.NewReader(b))
	if err != nil {
		return false
	}
	got, err := io.ReadAll(r)
	return err == nil && bytes.Equal(got, want)
}

func TestACLXattr(t *testing.T) {
	for text, want := range map[string]string{
		"user::rw-,user:1000:r--,group::r--,mask::r--,other::---":            "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff",
		"user::rw-\nuser:lisa:r--:1000\ngroup::r--\nmask::r--\nother::---\n": "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff",
		"user::rw-,group::r--,other::---":                                    "",
	} {
		if got, err := aclXattr(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"user", "user:lisa:r--", "nobody:1:r--", "mask:1:rwx", "user::rw-,:::"} {
		if _, err := aclXattr(text); err == nil {
			t.Errorf("%q is taken for an access control list", text)
		}
	}
}

// FuzzOpenArchive: any bytes are an archive that can be walked, read, and packed
// again into one that has the same in it, or an error.
func FuzzOpenArchive(f *testing.F) {
	var b tarball
	b.records(record{"mtime", "-1.5"}, record{"SCHILY.xattr.user.a%3Db", "c"}, record{"SCHILY.acl.access", "user::rw-,user:7:r--,group::r--,mask::r--,other::---"}).
		add(tarFile, "./a", "", "content").add(tarDir, "./d/", "", "").add(tarLink, "./d/b", "./a", "").add(tarSymlink, "./l", "a", "").add(tarFIFO, "p", "", "").
		add(tarChar, "c", "", "", func(h *header) { octal(h.major(), 8) }).
		records(record{"GNU.sparse.major", "1"}, record{"GNU.sparse.minor", "0"}, record{"GNU.sparse.name", "./s"}, record{"GNU.sparse.realsize", "5000"}).
		add(tarFile, "GNUSparseFile.0/s", "", "2\n100\n3\n5000\n0\n"+strings.Repeat("\x00", 497)+"xyz").
		records(record{"GNU.sparse.map", "0,1,4000,2"}, record{"GNU.sparse.size", "4002"}).add(tarFile, "t", "", "xyz").
		add(gnuLongName, "L", "", strings.Repeat("n", 300)+"\x00").add(gnuLongLink, "K", "", "./a\x00").add(tarLink, "n", "x", "").
		add(gnuSparse, "old", "", "data", func(h *header) {
			octal(h.gnuMap()[:12], 512)
			octal(h.gnuMap()[12:24], 4)
			octal(h.gnuRealSize(), 9999)
		}).add(tarGlobal, "g", "", string(appendRecords(nil, []record{{"gid", "9"}}))).add(tarFile, "last", "", "")
	whole := b.end()
	f.Add(whole, true)
	f.Add(packed(f, Gzip, whole), false)
	f.Add(packed(f, Zstd, whole), false)
	f.Add(whole[:len(whole)-1500], true)
	f.Fuzz(func(t *testing.T, raw []byte, repair bool) {
		ctx := context.Background()
		if repair {
			raw = repaired(raw)
		}
		a, err := Open(ctx, bytes.NewReader(raw), int64(len(raw)), OpenOptions{Sums: true, MaxMemory: 8 << 20})
		if err != nil {
			return
		}
		defer a.Close()
		if a.used > 8<<20 {
			t.Fatalf("%d bytes of memory", a.used)
		}
		bytesIn, names := int64(0), map[string]bool{}
		links := map[uint64]uint32{}
		sums := map[string]Sum{}
		err = Members{Archive: a}.Walk(ctx, func(name string, f File, err error) error {
			if err != nil {
				return nil
			}
			h := f.Header()
			isDir := h.Mode&ModeType == ModeDir
			if name != "./" && (!strings.HasPrefix(name, "./") || path.Clean(name) != name[2:] || names[name]) {
				t.Fatalf("name %q", name)
			}
			names[name] = true
			if !isDir {
				links[h.Ino]++
			}
			bytesIn += h.Allocated
			if h.Mode&ModeType == ModeFile && bytesIn < 1<<20 {
				c, err := f.Open()
				if err != nil {
					t.Fatal(err)
				}
				if c.Sum == nil && a.Err() != nil {
					return nil
				}
				sums[name], c.Sum = *c.Sum, nil
				if sum, err := SumOf(ctx, c, h.Size); err != nil || sum != sums[name] {
					t.Fatalf("%s: sum %x, %x on the way: %v", name, sum, sums[name], err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range links {
			if got := a.inodes.at(int32(i - 1)).links; got != n {
				t.Fatalf("inode %d has %d names and says %d", i, n, got)
			}
		}
		if bytesIn >= 1<<20 || a.Err() != nil {
			return
		}
		var out bytes.Buffer
		if _, err := Write(ctx, &out, Members{Archive: a}, Options{}); err != nil {
			t.Fatal(err)
		}
		again, err := Open(ctx, bytes.NewReader(out.Bytes()), int64(out.Len()), OpenOptions{Sums: true})
		if err != nil || again.Err() != nil {
			t.Fatal(err, again.Err())
		}
		defer again.Close()
		for name, sum := range sums {
			p, err := again.Lookup(name, false)
			if err != nil {
				t.Fatal(err)
			}
			if c, err := again.File(p).Open(); err != nil || *c.Sum != sum {
				t.Fatalf("%s is another, %v", name, err)
			}
		}
		if again.Entries() != int64(len(names)) {
			t.Fatalf("%d members became %d", len(names), again.Entries())
		}
	})
}

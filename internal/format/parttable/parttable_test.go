package parttable_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/format/parttable"
)

// show writes partitions as "number:start+length/type", in sectors.
func show(parts []parttable.Partition) string {
	var s []string
	for _, p := range parts {
		s = append(s, fmt.Sprintf("%d:%d+%d/%s", p.Number, p.Start/512, p.Len/512, p.Type))
	}
	return strings.Join(s, " ")
}

const other = errs.Other // here: no error

type tableCase struct {
	disk disk
	want string
	kind errs.Kind
	says string // in the error
}

func check(t *testing.T, cases map[string]tableCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			parts, err := parttable.Read(c.disk, int64(len(c.disk)))
			if got := show(parts); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (err == nil) != (c.kind == other) || err != nil && errs.KindOf(err) != c.kind {
				t.Errorf("error %v, want kind %v", err, c.kind)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

func TestMBR(t *testing.T) {
	fat := newDisk(100).sign(0)
	copy(fat[446:], "NO NAME    FAT")
	active := newDisk(100).entry(0, 2, 0x8e, 10, 20)
	active[446+32] = 0x80

	check(t, map[string]tableCase{
		"empty disk":         {newDisk(100), "", errs.NotFound, "no partition table"},
		"less than a sector": {disk(make([]byte, 511)), "", errs.NotFound, "511"},
		"no bytes":           {disk{}, "", errs.NotFound, ""},
		"file system":        {fat, "", errs.NotFound, ""},
		"empty table":        {newDisk(1).sign(0), "", other, ""},
		"slots keep their numbers": {
			newDisk(100).entry(0, 3, 0x8e, 1, 1).entry(0, 1, 0x83, 2, 98), "2:2+98/83 4:1+1/8e", other, ""},
		"active":        {active, "3:10+20/8e", other, ""},
		"type 0 counts": {newDisk(100).entry(0, 0, 0, 0, 100).entry(0, 1, 0xef, 4, 8), "1:0+100/00 2:4+8/ef", other, ""},
		"behind the end": {
			newDisk(100).entry(0, 0, 0x8e, 90, 11).entry(0, 1, 0x8e, 90, 10), "2:90+10/8e", errs.Corrupt, "partition 1"},
		"far behind the end": {newDisk(100).entry(0, 0, 0x8e, 1<<32-1, 1<<32-1), "", errs.Corrupt, "partition 1"},
	})
}

// chain is a disk with an extended partition at 1000 that has three logical
// ones, whose tables are at 1000, 1200 and 1100: the chain is not in order.
func chain() disk {
	return newDisk(2000).
		entry(0, 0, 0x83, 1, 500).
		entry(0, 1, 0x05, 1000, 1000).
		entry(1000, 0, 0x8e, 10, 90).entry(1000, 1, 0x05, 200, 100).
		entry(1200, 0, 0x83, 10, 80).entry(1200, 1, 0x05, 100, 100).
		entry(1100, 0, 0x82, 1, 99)
}

func twoExtended() disk {
	return newDisk(300).
		entry(0, 3, 0x05, 100, 100).entry(100, 0, 0x8e, 1, 9).
		entry(0, 1, 0x05, 200, 100).entry(200, 0, 0x83, 1, 9)
}

func TestLogical(t *testing.T) {
	const three = "1:1+500/83 5:1010+90/8e 6:1210+80/83 7:1101+99/82"
	long := newDisk(20_000).entry(0, 0, 0x0f, 1, 19_999)
	var all []string
	for i := range 56 { // as many as Linux had names for
		at := 1 + 10*i
		long.entry(at, 0, 0x8e, 1, 9).entry(at, 1, 0x05, uint32(10*(i+1)), 10)
		all = append(all, fmt.Sprintf("%d:%d+9/8e", 5+i, at+1))
	}
	long.entry(1+10*56, 0, 0x8e, 1, 9)
	all = append(all, fmt.Sprintf("%d:%d+9/8e", 5+56, 10*56+2))

	check(t, map[string]tableCase{
		"chain":    {chain(), three, other, ""},
		"many":     {long, strings.Join(all, " "), other, ""},
		"type 0f":  {chain().entry(0, 1, 0x0f, 1000, 1000), three, other, ""},
		"type 85":  {chain().entry(0, 1, 0x85, 1000, 1000), three, other, ""},
		"no EBR":   {newDisk(100).entry(0, 0, 0x05, 50, 50), "", other, ""},
		"no links": {newDisk(100).entry(0, 0, 0x05, 50, 50).entry(50, 0, 0x8e, 1, 49), "5:51+49/8e", other, ""},
		"a deleted first one leaves no number": {
			chain().entry(1000, 0, 0, 0, 0), "1:1+500/83 5:1210+80/83 6:1101+99/82", other, ""},
		"garbage in the third entry": {chain().entry(1200, 2, 0x77, 5, 5000), three, other, ""},
		"two extended ones": {
			twoExtended(), "5:201+9/83 6:101+9/8e", other, ""},

		"loop to the first":     {chain().entry(1100, 1, 0x05, 0, 100), three, errs.Corrupt, "does not end"},
		"loop to itself":        {chain().entry(1100, 1, 0x05, 100, 100), three, errs.Corrupt, "does not end"},
		"link out":              {chain().entry(1100, 1, 0x05, 1000, 100), three, errs.Corrupt, "table is at 2000"},
		"link far out":          {chain().entry(1100, 1, 0x05, 1<<32-1, 100), three, errs.Corrupt, "table is at"},
		"link to nothing":       {chain().entry(1100, 1, 0x05, 300, 100), three, errs.Corrupt, "sector 1300"},
		"logical one too long":  {chain().entry(1200, 0, 0x83, 10, 791), "1:1+500/83 5:1010+90/8e 7:1101+99/82", errs.Corrupt, "logical partition 6"},
		"extended one too long": {chain().entry(0, 1, 0x05, 1000, 1001), three, errs.Corrupt, "extended partition 2"},
		"extended one outside":  {newDisk(100).entry(0, 1, 0x05, 100, 1), "", errs.Corrupt, "extended partition 2"},
		"extended one over the table": {
			newDisk(100).entry(0, 1, 0x05, 0, 100).entry(0, 0, 0x8e, 1, 9), "1:1+9/8e", errs.Corrupt, "extended partition 2"},
	})
}

// A chain that goes on and on, over a disk that is large enough.
func TestEndlessChain(t *testing.T) {
	r := &endless{}
	parts, err := parttable.Read(r, 1<<41)
	if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "does not end") {
		t.Errorf("%d partitions, %v", len(parts), err)
	}
	if r.reads > 300 {
		t.Errorf("%d reads", r.reads)
	}
}

// endless is an extended partition whose every sector links to the next.
type endless struct{ reads int }

func (r *endless) ReadAt(p []byte, off int64) (int, error) {
	r.reads++
	d := newDisk(1).entry(0, 0, 0x05, 1, 1<<32-1)
	if off > 0 {
		d = newDisk(1).entry(0, 0, 0x8e, 1, 1).entry(0, 1, 0x05, uint32(off/512), 1)
	}
	return copy(p, d), nil
}

func TestGPT(t *testing.T) {
	a, b := [2]uint64{40, 99}, [2]uint64{100, 100}
	good := standard(a, [2]uint64{}, b)
	backup := good
	backup.lba, backup.entries = 199, 150
	const two = "1:40+60/" + lvmGUID + " 3:100+1/" + lvmGUID
	gptDisk := func(change func(*gpt)) disk {
		g := good
		change(&g)
		return newDisk(200).protective().put(g, 1, 512)
	}
	withBackup := func(change func(disk)) disk {
		d := newDisk(200).protective().put(backup, 199, 512).put(good, 1, 512)
		change(d)
		return d
	}

	check(t, map[string]tableCase{
		"two partitions":     {gptDisk(func(*gpt) {}), two, other, ""},
		"no partitions":      {gptDisk(func(g *gpt) { g.parts = nil }), "", other, ""},
		"large header":       {gptDisk(func(g *gpt) { g.size = 512 }), two, other, ""},
		"hybrid":             {gptDisk(func(*gpt) {}).entry(0, 1, 0x8e, 40, 60), two, other, ""},
		"damaged header":     {withBackup(func(d disk) { d[512+40]++ }), two, other, ""},
		"wiped header":       {withBackup(func(d disk) { clear(d[512:1024]) }), two, other, ""},
		"damaged entries":    {withBackup(func(d disk) { d[1024+32]++ }), two, other, ""},
		"wiped entries":      {withBackup(func(d disk) { clear(d[1024 : 1024+16384]) }), two, other, ""},
		"damaged backup":     {withBackup(func(d disk) { clear(d[150*512:]) }), two, other, ""},
		"both damaged":       {withBackup(func(d disk) { d[1024+32]++; d[199*512+20]++ }), "", errs.Corrupt, "checksum of the GPT's entries at sector 2"},
		"no protective MBR":  {newDisk(200).put(good, 1, 512), "", errs.NotFound, ""},
		"only protective":    {newDisk(200).protective(), "", errs.Corrupt, "neither"},
		"only a boot sector": {newDisk(1).protective(), "", errs.Corrupt, "neither"},
		"moved header":       {gptDisk(func(g *gpt) { g.lba = 7 }), "", errs.Corrupt, "sector 7"},
		"next revision":      {gptDisk(func(g *gpt) { g.revision = 0x20000 }), "", errs.Corrupt, "revision"},
		"header too short":   {gptDisk(func(g *gpt) { g.size = 91 }), "", errs.Corrupt, "size 91"},
		"header too long":    {gptDisk(func(g *gpt) { g.size = 513 }), "", errs.Corrupt, "size 513"},
		"header much longer": {gptDisk(func(g *gpt) { g.size = 1<<32 - 1 }), "", errs.Corrupt, "size"},
		"entry of 0 bytes":   {gptDisk(func(g *gpt) { g.entrySize = 0 }), "", errs.Corrupt, "128 entries of 0 bytes"},
		"entry too small":    {gptDisk(func(g *gpt) { g.entrySize = 64 }), "", errs.Corrupt, "of 64 bytes"},
		"odd entries":        {gptDisk(func(g *gpt) { g.entrySize = 129 }), "", errs.Corrupt, "of 129 bytes"},
		"too many entries":   {gptDisk(func(g *gpt) { g.count = 1<<32 - 1 }), "", errs.Corrupt, "4294967295 entries"},
		"overflowing":        {gptDisk(func(g *gpt) { g.count, g.entrySize = 1<<31, 1<<31 }), "", errs.Corrupt, "entries of"},
		"entries far away":   {gptDisk(func(g *gpt) { g.entries = 1<<64 - 1 }), "", errs.Corrupt, "18446744073709551615"},
		"entries half out":   {gptDisk(func(g *gpt) { g.entries = 190 }), "", errs.Corrupt, "sector 190"},
		"partition half out": {gptDisk(func(g *gpt) { g.parts = [][2]uint64{{40, 200}, b} }), "2:100+1/" + lvmGUID, errs.Corrupt, "partition 1"},
		"backwards":          {gptDisk(func(g *gpt) { g.parts = [][2]uint64{{41, 40}, b} }), "2:100+1/" + lvmGUID, errs.Corrupt, "41 to 40"},
		"everything":         {gptDisk(func(g *gpt) { g.parts = [][2]uint64{{0, 1<<64 - 1}, b} }), "2:100+1/" + lvmGUID, errs.Corrupt, "partition 1"},
		"far away":           {gptDisk(func(g *gpt) { g.parts = [][2]uint64{{1 << 63, 1<<63 + 1}} }), "", errs.Corrupt, "partition 1"},
	})
}

func TestGPTWithLargeSectors(t *testing.T) {
	g := standard([2]uint64{10, 19})
	backup := g
	backup.lba, backup.entries = 99, 95
	const want = "1:80+80/" + lvmGUID
	disk := func() disk { return newDisk(800).protective().put(g, 1, 4096) }
	damaged := disk().put(backup, 99, 4096)
	damaged[4096+30]++
	check(t, map[string]tableCase{
		"primary": {disk(), want, other, ""},
		"backup":  {damaged, want, other, ""},
	})
}

// What cannot be read is not a disk without partitions.
func TestReadErrors(t *testing.T) {
	broken := errors.New("broken")
	for name, d := range map[string]disk{
		"logical": chain(),
		"GPT":     newDisk(200).protective().put(standard([2]uint64{40, 99}), 1, 512),
	} {
		for n := 1; ; n++ {
			r := &failing{disk: d, at: n, err: broken}
			_, err := parttable.Read(r, int64(len(d)))
			if r.reads < n {
				if err != nil || n == 1 {
					t.Errorf("%s: %v without a fault", name, err)
				}
				break
			}
			if !errors.Is(err, broken) || errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
				t.Errorf("%s, read %d fails: %v", name, n, err)
			}
		}
	}
	if _, err := parttable.Read(chain()[:300*512], 2000*512); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a disk shorter than its size: %v", err)
	}
}

type failing struct {
	disk
	reads, at int
	err       error
	zeroes    bool // behind the disk's end
}

func (r *failing) ReadAt(p []byte, off int64) (int, error) {
	if r.reads++; r.reads == r.at {
		return 0, r.err
	}
	if r.zeroes {
		clear(p)
		_, _ = r.disk.ReadAt(p, off)
		return len(p), nil
	}
	return r.disk.ReadAt(p, off)
}

// FuzzRead: whatever the bytes, what comes out lies within the disk, and not
// much is read. Behind the bytes the disk is zero. With mend the checksums of a
// GPT in the second sector are made right, which mutations hardly ever manage.
func FuzzRead(f *testing.F) {
	small := standard([2]uint64{3, 3}, [2]uint64{}, [2]uint64{4, 5})
	small.count = 4
	f.Add([]byte(smallChain()), int64(0), false)
	f.Add([]byte(newDisk(6).protective().put(small, 1, 512))[:3*512], int64(6*512), true)
	f.Add([]byte(newDisk(24).protective().put(small, 1, 4096))[:9*1024], int64(1<<40), false)
	f.Fuzz(func(t *testing.T, b []byte, size int64, mend bool) {
		if size <= 0 {
			size = int64(len(b))
		}
		if mend && len(b) > 1536 {
			b = mended(b)
		}
		r := &failing{disk: disk(b), zeroes: true}
		parts, err := parttable.Read(r, size)
		if r.reads > 2*256+16 {
			t.Errorf("%d reads", r.reads)
		}
		if len(parts) > 8192 {
			t.Errorf("%d partitions", len(parts))
		}
		numbers := make(map[int]bool)
		for _, p := range parts {
			if p.Number < 1 || numbers[p.Number] || p.Start < 0 || p.Len <= 0 || p.Start > size || p.Len > size-p.Start || p.Type == "" {
				t.Errorf("partition %+v on a disk of %d bytes", p, size)
			}
			numbers[p.Number] = true
		}
		if k := errs.KindOf(err); err != nil && k != errs.Corrupt && k != errs.NotFound {
			t.Errorf("error %v of kind %v", err, k)
		}
	})
}

func smallChain() disk {
	return newDisk(12).
		entry(0, 0, 0x83, 1, 1).entry(0, 1, 0x05, 2, 10).
		entry(2, 0, 0x8e, 1, 2).entry(2, 1, 0x05, 4, 3).
		entry(6, 0, 0x8e, 1, 1)
}

// mended returns a copy with right checksums in the header at sector 1.
func mended(b []byte) []byte {
	b = bytes.Clone(b)
	le := binary.LittleEndian
	h := b[512:1024]
	from, length := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if from < uint64(len(b)/512) && length <= uint64(len(b))-from*512 {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[from*512:][:length]))
	}
	if n := le.Uint32(h[12:]); n >= 20 && n <= 512 {
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
	return b
}

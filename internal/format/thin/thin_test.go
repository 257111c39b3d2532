package thin

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/judge"
)

const poolBlocks = 1 << 17

// volume is a thin volume as a model: the data block of each mapped block.
type volume map[uint64]Mapping

// image is a metadata device in memory.
type image []byte

func (img image) block(at uint64) []byte { return img[at*BlockSize:][:BlockSize] }

// seal makes a block valid after it was changed.
func (img image) seal(at uint64, salt uint32) {
	b := img.block(at)
	le.PutUint64(b[8:], at)
	le.PutUint32(b, checksum(b, salt))
}

func (img image) open(t testing.TB) *Metadata {
	t.Helper()
	m, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (img image) file(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metadata")
	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// randomVolume is one with runs and holes.
func randomVolume(rng *rand.Rand, blocks int, next *uint64) volume {
	v := volume{}
	for at := uint64(0); len(v) < blocks; at += rng.Uint64N(5) * rng.Uint64N(100) {
		for range 1 + rng.Uint64N(9) {
			v[at] = Mapping{Data: *next, Time: rng.Uint32N(6)}
			*next += 1 + rng.Uint64N(2)
			at++
		}
	}
	return v
}

// restore has thin_restore make metadata of volumes, by number from 1 on.
func restore(t testing.TB, volumes ...volume) image {
	t.Helper()
	judge.Need(t, "thin_restore")
	var text strings.Builder
	fmt.Fprintf(&text, `<superblock uuid="" time="5" transaction="7" version="2" data_block_size="256" nr_data_blocks="%d">`, poolBlocks)
	for i, v := range volumes {
		fmt.Fprintf(&text, `<device dev_id="%d" mapped_blocks="%d" transaction="%d" creation_time="%d" snap_time="5">`, i+1, len(v), i+2, i+3)
		for _, b := range slices.Sorted(maps.Keys(v)) {
			fmt.Fprintf(&text, `<single_mapping origin_block="%d" data_block="%d" time="%d"/>`, b, v[b].Data, v[b].Time)
		}
		text.WriteString("</device>")
	}
	text.WriteString("</superblock>")
	dir := t.TempDir()
	source, made := filepath.Join(dir, "xml"), filepath.Join(dir, "metadata")
	if err := os.WriteFile(source, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(made, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("thin_restore", "-i", source, "-o", made).CombinedOutput(); err != nil {
		t.Fatalf("thin_restore: %v\n%s", err, out)
	}
	img, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// dumped is what thin_dump says.
type dumped struct {
	Devices []struct {
		ID      uint64 `xml:"dev_id,attr"`
		Mapped  uint64 `xml:"mapped_blocks,attr"`
		Trans   uint64 `xml:"transaction,attr"`
		Created uint32 `xml:"creation_time,attr"`
		Snapped uint32 `xml:"snap_time,attr"`
		Single  []struct {
			Origin uint64 `xml:"origin_block,attr"`
			Data   uint64 `xml:"data_block,attr"`
		} `xml:"single_mapping"`
		Range []struct {
			Origin uint64 `xml:"origin_begin,attr"`
			Data   uint64 `xml:"data_begin,attr"`
			Length uint64 `xml:"length,attr"`
		} `xml:"range_mapping"`
	} `xml:"device"`
}

// ask runs a program over an image and reads its XML.
func ask(t testing.TB, img image, into any, program string, args ...string) {
	t.Helper()
	judge.Need(t, program)
	out, err := exec.Command(program, append(args, img.file(t))...).Output()
	if err == nil {
		err = xml.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}

// sameAsDump compares devices and mappings with what thin_dump says.
func sameAsDump(t *testing.T, img image) {
	t.Helper()
	var d dumped
	ask(t, img, &d, "thin_dump")
	m := img.open(t)
	n := 0
	for dev, err := range m.Devices() {
		if err != nil {
			t.Fatal(err)
		}
		if n == len(d.Devices) {
			t.Fatalf("device %+v is none for thin_dump", dev)
		}
		want := d.Devices[n]
		n++
		if (dev != Device{want.ID, want.Mapped, want.Trans, want.Created, want.Snapped}) {
			t.Errorf("device %+v, thin_dump says %+v", dev, want)
		}
		if one, err := m.Device(dev.ID); err != nil || one != dev {
			t.Errorf("device %d by itself: %+v, %v", dev.ID, one, err)
		}
		blocks := map[uint64]bool{}
		for _, s := range want.Single {
			blocks[s.Origin] = true
		}
		for _, r := range want.Range {
			for i := range r.Length {
				blocks[r.Origin+i] = true
			}
		}
		var got []uint64
		for b, err := range m.Mappings(dev.ID) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b)
		}
		if want := slices.Sorted(maps.Keys(blocks)); !slices.Equal(got, want) {
			t.Errorf("device %d has %d blocks mapped, thin_dump says %d", dev.ID, len(got), len(want))
		}
	}
	if n != len(d.Devices) {
		t.Errorf("%d devices, thin_dump says %d", n, len(d.Devices))
	}
}

// How a block differs, as thin_delta calls it.
const (
	different = "different"
	leftOnly  = "left_only"
	rightOnly = "right_only"
)

// delta is Delta by block.
func delta(t testing.TB, m *Metadata, from, to uint64) map[uint64]string {
	t.Helper()
	out := map[uint64]string{}
	last := int64(-1)
	for d, err := range m.Delta(from, to) {
		if err != nil {
			t.Fatal(err)
		}
		if int64(d.Block) <= last {
			t.Fatalf("block %d follows %d", d.Block, last)
		}
		last = int64(d.Block)
		switch {
		case d.From == nil:
			out[d.Block] = rightOnly
		case d.To == nil:
			out[d.Block] = leftOnly
		default:
			out[d.Block] = different
		}
	}
	return out
}

// sameAsDelta compares a delta with what thin_delta says, and returns it.
func sameAsDelta(t *testing.T, img image, from, to uint64) map[uint64]string {
	t.Helper()
	type ranges []struct {
		Begin  uint64 `xml:"begin,attr"`
		Length uint64 `xml:"length,attr"`
	}
	var d struct {
		Diff struct {
			Different ranges `xml:"different"`
			Left      ranges `xml:"left_only"`
			Right     ranges `xml:"right_only"`
		} `xml:"diff"`
	}
	ask(t, img, &d, "thin_delta", "--thin1", fmt.Sprint(from), "--thin2", fmt.Sprint(to))
	want := map[uint64]string{}
	for kind, all := range map[string]ranges{different: d.Diff.Different, leftOnly: d.Diff.Left, rightOnly: d.Diff.Right} {
		for _, r := range all {
			for i := range r.Length {
				want[r.Begin+i] = kind
			}
		}
	}
	got := delta(t, img.open(t), from, to)
	if !maps.Equal(got, want) {
		t.Errorf("devices %d and %d differ in %d blocks, thin_delta says %d", from, to, len(got), len(want))
	}
	return got
}

// What other tools made is read as they read it.
func TestRestored(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 0))
		next := uint64(0)
		a := randomVolume(rng, 1+rng.IntN(8000), &next)
		b := maps.Clone(a)
		for k := range b {
			switch rng.IntN(20) {
			case 0:
				delete(b, k)
			case 1:
				b[k] = Mapping{Data: next}
				next++
			case 2:
				b[k] = Mapping{Data: b[k].Data, Time: 5} // the same block, mapped again
			case 3:
				b[k+1000] = Mapping{Data: next}
				next++
			}
		}
		img := restore(t, a, b, volume{}, randomVolume(rng, 500, &next))
		sameAsDump(t, img)
		for _, pair := range [][2]uint64{{1, 2}, {2, 1}, {1, 3}, {3, 3}, {4, 2}} {
			sameAsDelta(t, img, pair[0], pair[1])
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// snapshots makes device 2 a snapshot of device 1 that was written to since, as
// the kernel does it: what is on the way from the root to a leaf that changes is
// copied, and all else is in both trees. Copies go to the image's end.
type snapshots struct {
	t    testing.TB
	img  image
	free uint64
	next uint64 // data block
}

func (s *snapshots) copyOf(at uint64) uint64 {
	s.free--
	copy(s.img.block(s.free), s.img.block(at))
	return s.free
}

// change writes to blocks of the tree at a root, and returns the root of the
// copy. No leaf loses all of its entries.
func (s *snapshots) change(at uint64, rng *rand.Rand, part float64) uint64 {
	n, err := decodeNode(s.img.block(at), at)
	if err != nil {
		s.t.Fatal(err)
	}
	to := s.copyOf(at)
	b := s.img.block(to)
	keys := b[nodeHeader:]
	values := b[nodeHeader+n.max*keySize:]
	if !n.leaf {
		for i := range n.count {
			if rng.Float64() < part {
				le.PutUint64(values[i*8:], s.change(n.number(i), rng, part))
			}
		}
		s.img.seal(to, nodeSalt)
		return to
	}
	count := n.count
	for i := 0; i < count; i++ {
		switch rng.IntN(8) {
		case 0:
			le.PutUint64(values[i*8:], s.next<<24|5)
			s.next++
		case 1:
			if count > 1 {
				copy(keys[i*8:count*8], keys[(i+1)*8:count*8])
				copy(values[i*8:count*8], values[(i+1)*8:count*8])
				count--
				i--
			}
		}
	}
	le.PutUint32(b[16:], uint32(count))
	s.img.seal(to, nodeSalt)
	return to
}

// setRoot makes a tree the mappings of a device.
func (s *snapshots) setRoot(dev, root uint64) {
	at := s.img.open(s.t).Superblock.Mappings
	n, err := decodeNode(s.img.block(at), at)
	if err != nil || !n.leaf || n.key(n.floor(dev)) != dev {
		s.t.Fatalf("the tree of devices is no leaf with %d: %v", dev, err)
	}
	le.PutUint64(n.value(n.floor(dev)), root)
	s.img.seal(at, nodeSalt)
}

// raise puts an inner node above a root.
func (s *snapshots) raise(root uint64) uint64 {
	n, _ := decodeNode(s.img.block(root), root)
	s.free--
	b := s.img.block(s.free)
	le.PutUint32(b[4:], internalNode)
	le.PutUint32(b[16:], 1)
	le.PutUint32(b[20:], 252)
	le.PutUint32(b[24:], rootSize)
	le.PutUint64(b[nodeHeader:], n.key(0))
	le.PutUint64(b[nodeHeader+252*8:], root)
	s.img.seal(s.free, nodeSalt)
	return s.free
}

// counting counts the blocks that are read.
type counting struct {
	io.ReaderAt
	reads map[int64]int
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.reads[off]++
	return c.ReaderAt.ReadAt(b, off)
}

// Volumes that share subtrees: the delta is thin_delta's, and what is shared is
// not read.
func TestShared(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := &snapshots{t: t, next: 1}
		a := randomVolume(rng, 15000, &s.next)
		s.img = restore(t, a, volume{7: {Data: 100_000}})
		s.free = uint64(len(s.img) / BlockSize)
		m := s.img.open(t)
		tree, err := m.mappings(1)
		if err != nil {
			t.Fatal(err)
		}
		part := []float64{0.01, 0.1, 0, 0.9}[seed]
		root := s.change(tree.root, rng, part)
		roots := 1
		if seed > 1 { // the trees are not equally high
			root = s.raise(root)
			roots++
		}
		s.setRoot(2, root)
		sameAsDump(t, s.img)
		differ := sameAsDelta(t, s.img, 1, 2)
		sameAsDelta(t, s.img, 2, 1)

		counted := &counting{bytes.NewReader(s.img), map[int64]int{}}
		if m, err = Open(counted, int64(len(s.img))); err != nil {
			t.Fatal(err)
		}
		delta(t, m, 1, 2)
		copied := int(uint64(len(s.img)/BlockSize) - s.free)
		// Each copy and what it is a copy of, and the ways to the two trees.
		if most := 2*copied + 12; len(counted.reads) > most {
			t.Errorf("%d blocks were read for %d copies", len(counted.reads), copied)
		}
		t.Logf("seed %d: of %d mapped blocks %d differ, %d blocks of metadata copied, %d read", seed, len(a), len(differ), copied, len(counted.reads))
		if (copied > roots) != (len(differ) > 0) {
			t.Errorf("%d blocks differ, %d blocks of metadata were copied", len(differ), copied)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// held gives an image a reserved state, as the kernel's message does.
func held(img image) image {
	img = slices.Clone(img)
	at := uint64(len(img)/BlockSize) - 1
	b := img.block(at)
	copy(b, img.block(0))
	clear(b[64:320]) // the space maps are not part of it
	img.seal(at, superblockSalt)
	le.PutUint64(img.block(0)[56:], at)
	img.seal(0, superblockSalt)
	return img
}

// A reserved state is read from its own superblock, while the pool goes on.
func TestHeld(t *testing.T) {
	img := restore(t, volume{1: {Data: 5}, 2: {Data: 6}}, volume{2: {Data: 9}})
	if _, err := OpenHeld(bytes.NewReader(img), int64(len(img))); !errs.Is(err, errs.NotFound) {
		t.Errorf("no state is reserved: %v", err)
	}
	img = held(img)
	for _, field := range []int{320, 328} { // the live roots go elsewhere
		le.PutUint64(img.block(0)[field:], 3)
	}
	img.seal(0, superblockSalt)
	m, err := OpenHeld(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	if got := delta(t, m, 1, 2); len(got) != 2 || got[1] != leftOnly || got[2] != different {
		t.Errorf("delta %v", got)
	}
	if m.Superblock.BlockBytes != 128<<10 || m.Superblock.Transaction != 7 || m.Superblock.Time != 5 {
		t.Errorf("superblock %+v", m.Superblock)
	}
	if _, err := m.Device(3); !errs.Is(err, errs.NotFound) {
		t.Errorf("device 3: %v", err)
	}
}

// walk reads all that there is, and returns the first error.
func walk(m *Metadata) error {
	var ids []uint64
	for d, err := range m.Devices() {
		if err != nil {
			return err
		}
		if ids = append(ids, d.ID); len(ids) > 4 {
			break
		}
	}
	for _, id := range ids {
		last := int64(-1)
		for b, err := range m.Mappings(id) {
			if err != nil {
				return err
			}
			if last >= 0 && int64(b) >= 0 && int64(b) <= last {
				return fmt.Errorf("block %d follows %d", b, last)
			}
			last = int64(b)
		}
		for _, to := range ids {
			for _, err := range m.Delta(id, to) {
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Each lie in a block whose checksum is right is refused.
func TestDamage(t *testing.T) {
	next := uint64(0)
	whole := restore(t, randomVolume(rand.New(rand.NewPCG(1, 2)), 3000, &next), volume{7: {Data: 1}})
	m := whole.open(t)
	tree, err := m.mappings(1)
	if err != nil || tree.height != 1 {
		t.Fatalf("a tree with %d levels above its leaves: %v", tree.height, err)
	}
	root, _ := m.node(tree.root)
	leaf, second := root.number(0), root.number(1)
	put64 := func(at uint64, off int, v uint64) func(image) {
		return func(img image) { le.PutUint64(img.block(at)[off:], v) }
	}
	put32 := func(at uint64, off int, v uint32) func(image) {
		return func(img image) { le.PutUint32(img.block(at)[off:], v) }
	}
	inValues := nodeHeader + root.max*keySize
	for _, c := range []struct {
		name string
		do   func(image)
		at   uint64
		want string
		kind errs.Kind
	}{
		{"magic", put64(0, 32, 1), 0, "magic 1", errs.Corrupt},
		{"version", put32(0, 40, 3), 0, "version 3", errs.Unsupported},
		{"features", put32(0, 360, 4), 0, "unknown features", errs.Unsupported},
		{"block size", put32(0, 340, 16), 0, "blocks of 16 sectors", errs.Corrupt},
		{"data block size", put32(0, 336, 100), 0, "data blocks of 51200 bytes", errs.Corrupt},
		{"root outside", put64(0, 320, 1<<40), 0, "outside of the device", errs.Corrupt},
		{"details are mappings", put64(0, 328, tree.root), 0, "values of 8 bytes, want 24", errs.Corrupt},
		{"loop to itself", put64(tree.root, inValues, tree.root), tree.root, "higher than", errs.Corrupt},
		{"loop further on", put64(tree.root, inValues+8, tree.root), tree.root, "does not belong 0 above the leaves", errs.Corrupt},
		{"twice below", put64(tree.root, inValues+8, leaf), tree.root, "those above it say", errs.Corrupt},
		{"swapped", func(img image) {
			le.PutUint64(img.block(tree.root)[inValues:], second)
			le.PutUint64(img.block(tree.root)[inValues+8:], leaf)
		}, tree.root, "those above it say", errs.Corrupt},
		{"child outside", put64(tree.root, inValues+8, 1024), tree.root, "outside of the device's 1024", errs.Corrupt},
		{"superblock below", put64(tree.root, inValues+8, 0), tree.root, "block 0 has checksum", errs.Corrupt},
		{"flags", put32(leaf, 4, 3), leaf, "flags 0x3", errs.Corrupt},
		{"too many", put32(leaf, 16, 253), leaf, "253 of 252 entries", errs.Corrupt},
		{"too much room", put32(leaf, 20, 1<<30), leaf, "entries with values", errs.Corrupt},
		{"value size", put32(leaf, 24, 1<<31), leaf, "entries with values", errs.Corrupt},
		{"value size of details", put32(leaf, 24, 0), leaf, "values of 0 bytes, want 8", errs.Corrupt},
		{"empty leaf", put32(leaf, 16, 0), leaf, "is empty", errs.Corrupt},
		{"keys", put64(leaf, nodeHeader+8, 0), leaf, "do not ascend", errs.Corrupt},
		{"data block", put64(leaf, inValues, poolBlocks<<24), leaf, "outside of the pool's", errs.Corrupt},
	} {
		img := slices.Clone(whole)
		c.do(img)
		salt := nodeSalt
		if c.at == 0 {
			salt = superblockSalt
		}
		img.seal(c.at, salt)
		m, err := Open(bytes.NewReader(img), int64(len(img)))
		if err == nil {
			err = walk(m)
		}
		if !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		// Without a checksum that is right it is not even looked at.
		img.block(c.at)[BlockSize-1] ^= 1
		if m, err = Open(bytes.NewReader(img), int64(len(img))); err == nil {
			err = walk(m)
		}
		if !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s, with a wrong checksum: %v", c.name, err)
		}
	}
	for _, cut := range []int{0, 1, BlockSize - 1, BlockSize, 9*BlockSize + 7} {
		m, err := Open(bytes.NewReader(whole[:cut]), int64(len(whole)))
		if err == nil {
			err = walk(m)
		}
		if err == nil {
			t.Errorf("a device that ends after %d bytes is read", cut)
		}
	}
}

// FuzzMetadata walks metadata in which anything may be, with checksums that are
// right: it ends, says what is wrong, and does not panic.
func FuzzMetadata(f *testing.F) {
	seed, err := os.ReadFile("testdata/small")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:4*BlockSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64*BlockSize {
			return
		}
		img := image(slices.Clone(b))
		for at := uint64(0); at < uint64(len(img)/BlockSize); at++ {
			salt := nodeSalt
			if at == 0 || le.Uint64(img.block(at)[32:]) == Magic {
				salt = superblockSalt
			}
			img.seal(at, salt)
		}
		for _, open := range []func(io.ReaderAt, int64) (*Metadata, error){Open, OpenHeld} {
			m, err := open(bytes.NewReader(img), int64(len(img)))
			if err == nil {
				err = walk(m)
			}
			if err != nil && !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Unsupported) && !errs.Is(err, errs.NotFound) {
				t.Errorf("kind %v: %v", errs.KindOf(err), err)
			}
		}
	})
}

// TestRecord makes the fuzzer's seed: metadata of two volumes, as much of it as is
// in use.
func TestRecord(t *testing.T) {
	if os.Getenv("COWL_RECORD") == "" {
		t.Skip("COWL_RECORD=1 makes testdata/small anew")
	}
	next := uint64(0)
	v := randomVolume(rand.New(rand.NewPCG(3, 4)), 700, &next)
	w := maps.Clone(v)
	maps.DeleteFunc(w, func(b uint64, _ Mapping) bool { return b%7 == 0 })
	img := restore(t, v, w)
	counted := &counting{bytes.NewReader(img), map[int64]int{}}
	m, err := Open(counted, int64(len(img)))
	if err == nil {
		err = walk(m)
	}
	if err != nil {
		t.Fatal(err)
	}
	used := slices.Max(slices.Collect(maps.Keys(counted.reads))) / BlockSize
	small := held(img[:(used+2)*BlockSize])
	if err := walk(small.open(t)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/small", small, 0o644); err != nil {
		t.Fatal(err)
	}
}

package demo

import (
	"strings"
	"testing"

	"cowl/internal/block/mem"
)

// made returns a device with a ledger on it, its blocks in no order.
func made(t *testing.T) (*mem.Device, *ledger) {
	t.Helper()
	dev := mem.New(3 * ledgerBlocks * ledgerBlock)
	content := ledgerContent()
	for i := range int64(ledgerBlocks) {
		at := (i*7919%ledgerBlocks)*3 + 1
		if _, err := dev.WriteAt(content[i*ledgerBlock:(i+1)*ledgerBlock], at*ledgerBlock); err != nil {
			t.Fatal(err)
		}
	}
	l, err := findLedger(dev, dev.Size())
	if err != nil {
		t.Fatal(err)
	}
	return dev, l
}

// The demo's claim of an instant is worth what the check would find: one
// write too many, one too few, one torn.
func TestLedgerCheck(t *testing.T) {
	dev, l := made(t)
	if n, err := l.check(dev); n != 0 || err != nil {
		t.Fatalf("before the first write: %d, %v", n, err)
	}
	write := func(n uint64) {
		t.Helper()
		i := ledgerTarget(n)
		if _, err := dev.WriteAt(ledgerEntry(i, n), l.offsets[i]); err != nil {
			t.Fatal(err)
		}
	}
	for n := uint64(1); n <= 5000; n++ {
		write(n)
	}
	good := dev.Clone()
	if n, err := l.check(dev); n != 5000 || err != nil {
		t.Fatalf("after 5000 writes: %d, %v", n, err)
	}
	for name, spoil := range map[string]func(){
		"a write is missing": func() { write(5002) },
		"an old block":       func() { i := ledgerTarget(4999); dev.WriteAt(ledgerEntry(i, 0), l.offsets[i]) },
		"a torn block":       func() { dev.WriteAt([]byte{1}, l.offsets[77]+2000) },
		"another's block":    func() { dev.WriteAt(ledgerEntry(3, 0), l.offsets[4]) },
		"zeroes":             func() { dev.WriteZeroes(l.offsets[9], ledgerBlock) },
	} {
		dev = good.Clone()
		spoil()
		if n, err := l.check(dev); err == nil || !strings.Contains(err.Error(), "ledger") {
			t.Errorf("%s: accepted as %d writes (%v)", name, n, err)
		}
	}
}

// The writer checks itself: a device that loses a write is found out.
func TestWriterNotices(t *testing.T) {
	dev, l := made(t)
	w := startWriter(dev, l, 0)
	for w.checked.Load() < 100 {
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	n, err := l.check(dev)
	if err != nil || n != w.acked.Load() {
		t.Fatalf("%d writes on the device, %d acknowledged (%v)", n, w.acked.Load(), err)
	}
	w = startWriter(lossy{dev}, l, n)
	if err := <-w.done; err == nil || !strings.Contains(err.Error(), "reads back") {
		t.Error(err)
	}
}

// lossy acknowledges writes and drops them.
type lossy struct{ *mem.Device }

func (lossy) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"-L": "-L", "a b": "'a b'", "": "''", "it's": `'it'\''s'`, "*.raw": "'*.raw'", "vg/lv": "vg/lv"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

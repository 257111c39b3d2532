package checksum

import "testing"

// The wanted sums were read with pvck from disks that lvm2 2.03.16 wrote, or
// follow from the definition (no bytes: the seed itself).
func TestLVM(t *testing.T) {
	// Bytes 20..511 of a label: offset of the PV header, "LVM2 001", an all-zero PV header.
	label := make([]byte, 492)
	copy(label, "\x20\x00\x00\x00LVM2 0017u6gwUxPvzENpgV3BnLK3Kz4j3BRZgp2")
	copy(label[44:], "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x10\x00")
	copy(label[84:], "\x00\x10\x00\x00\x00\x00\x00\x00\x00\xf0\x0f\x00")
	copy(label[116:], "\x02\x00\x00\x00\x01\x00\x00\x00")
	for _, c := range []struct {
		name string
		in   []byte
		want uint32
	}{
		{"nothing", nil, 0xf597a6cf},
		{"a label of lvm2's", label, 0x1bcd5df7},
	} {
		if got := LVM(c.in); got != c.want {
			t.Errorf("%s: got %#x, want %#x", c.name, got, c.want)
		}
	}
}

// A text that wraps is summed in two parts.
func TestContinue(t *testing.T) {
	text := []byte("vg {\nseqno = 1\n}\n")
	for i := range text {
		if got, want := Continue(LVM(text[:i]), text[i:]), LVM(text); got != want {
			t.Fatalf("split at %d: got %#x, want %#x", i, got, want)
		}
	}
}

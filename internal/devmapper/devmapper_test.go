package devmapper

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// The UUID as lvm2 gave it to a device, in the kernel lab.
func TestLVMUUID(t *testing.T) {
	group, err := volume.ParseUUID("UHoQpc-pSQ2-9GO3-MUQC-KrQT-cvZ4-7dKexP")
	if err != nil {
		t.Fatal(err)
	}
	lv, err := volume.ParseUUID("nyXtyP-TVEa-3I6X-NEXn-vxBI-Vvu8-MmOZh9")
	if err != nil {
		t.Fatal(err)
	}
	const want = "LVM-UHoQpcpSQ29GO3MUQCKrQTcvZ47dKexPnyXtyPTVEa3I6XNEXnvxBIVvu8MmOZh9-cow"
	if got := LVMUUID(group, lv, LayerCow); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := LVMUUID(group, lv, LayerNone); got != strings.TrimSuffix(want, "-cow") || !strings.HasPrefix(got, GroupPrefix(group)) {
		t.Errorf("the volume itself is %s", got)
	}
}

func TestRequest(t *testing.T) {
	b, err := request("LVM-x", flagSuspend, headerSize)
	if err != nil {
		t.Fatal(err)
	}
	info, err := decodeInfo(b)
	if err != nil || info.UUID != "LVM-x" || !info.Suspended || info.Name != "" {
		t.Errorf("the request reads %+v, %v", info, err)
	}
	for _, bad := range []string{"", strings.Repeat("x", 129), "a\x00b"} {
		if _, err := request(bad, 0, headerSize); !errs.Is(err, errs.Usage) {
			t.Errorf("UUID %q: %v", bad, err)
		}
	}
}

// answer makes what the kernel answers to a question for a table's status.
func answer(lines ...Target) []byte {
	n := binary.NativeEndian
	b := make([]byte, headerSize)
	n.PutUint32(b[offStart:], headerSize)
	n.PutUint32(b[offTargets:], uint32(len(lines)))
	for _, l := range lines {
		spec := make([]byte, specSize)
		n.PutUint64(spec, uint64(l.Start))
		n.PutUint64(spec[8:], uint64(l.Length))
		copy(spec[24:], l.Type)
		spec = append(append(spec, l.Status...), 0)
		for len(spec)%8 > 0 {
			spec = append(spec, 0)
		}
		n.PutUint32(spec[20:], uint32(len(b)-headerSize+len(spec)))
		b = append(b, spec...)
	}
	n.PutUint32(b[offDataSize:], uint32(len(b)))
	return b
}

func TestDecodeTargets(t *testing.T) {
	want := []Target{{0, 8192, "snapshot", "16/2048 16"}, {8192, 5, "linear", ""}}
	got, err := decodeTargets(answer(want...))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// The device number is that of the kernel's encoding: 12 bits of the minor
// number lie above the major one.
func TestDecodeInfo(t *testing.T) {
	b := make([]byte, headerSize)
	binary.NativeEndian.PutUint64(b[offDev:], 253<<8|0x34|0x12<<20)
	binary.NativeEndian.PutUint32(b[offOpens:], 3)
	binary.NativeEndian.PutUint32(b[offFlags:], flagActive|flagReadOnly)
	copy(b[offName:], "vg-lv")
	got, err := decodeInfo(b)
	want := Info{Name: "vg-lv", Major: 253, Minor: 0x1234, Opens: 3, ReadOnly: true, Live: true}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := decodeInfo(b[:100]); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a short answer: %v", err)
	}
}

// Whatever the kernel answers is lines or an error.
func FuzzTargets(f *testing.F) {
	f.Add(answer(Target{0, 8, "snapshot-merge", "0/8 0"}, Target{8, 8, "linear", ""}))
	f.Add(answer())
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := decodeTargets(b)
		if err == nil && len(lines)*specSize > len(b) {
			t.Fatalf("%d lines in %d bytes", len(lines), len(b))
		}
	})
}

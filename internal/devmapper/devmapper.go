// Package devmapper asks the kernel's device-mapper about its devices, and
// suspends and resumes them, by the ioctls of /dev/mapper/control, without the
// dmsetup program: whoever holds the volume that dmsetup lies on could not
// start it. It makes no devices and loads no tables; that is lvm2's.
//
// Devices are named by their UUID, which for lvm2's is made of the identifiers
// of group and volume and cannot be another's: see LVMUUID. It needs root, but
// for List. Elsewhere than on Linux everything is errs.Unsupported.
package devmapper

import (
	"bytes"
	"encoding/binary"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// The layers below a volume that lvm2 makes devices of: what an origin or a
// snapshot's store is without its snapshots' target above it.
const (
	LayerNone = ""      // the volume itself
	LayerReal = "real"  // an origin without copying
	LayerCow  = "cow"   // a snapshot's store
	LayerPool = "tpool" // what the volumes of a thin pool are in
)

// LVMUUID returns the UUID of the device that lvm2 makes of a volume, or of a
// layer of it.
func LVMUUID(group, lv volume.UUID, layer string) string {
	uuid := GroupPrefix(group) + string(lv)
	if layer != LayerNone {
		uuid += "-" + layer
	}
	return uuid
}

// GroupPrefix is what the UUIDs of all devices of a group begin with.
func GroupPrefix(group volume.UUID) string { return "LVM-" + string(group) }

// Info is what the kernel says of a device.
type Info struct {
	Name, UUID   string
	Major, Minor uint32
	Opens        int // by whom the kernel does not say: processes, mounts, devices above
	Suspended    bool
	ReadOnly     bool
	Live         bool // it has a table
}

// Target is a line of a device's table with its status. Start and Length are
// in sectors.
type Target struct {
	Start, Length int64
	Type          string
	Status        string
}

// The layout of struct dm_ioctl, and the bits of its flags, as of
// include/uapi/linux/dm-ioctl.h. All in the machine's byte order.
const (
	headerSize  = 312
	offVersion  = 0
	offDataSize = 12
	offStart    = 16
	offTargets  = 20
	offOpens    = 24
	offFlags    = 28
	offDev      = 40
	offName     = 48
	nameSize    = 128
	offUUID     = 176
	uuidSize    = 129

	flagReadOnly   = 1 << 0
	flagSuspend    = 1 << 1
	flagTable      = 1 << 4
	flagActive     = 1 << 5
	flagBufferFull = 1 << 8
	flagSkipLockFS = 1 << 10

	specSize = 40 // of struct dm_target_spec
)

// maxBuffer bounds what is taken of the kernel as an answer: a table of some
// hundred thousand lines.
const maxBuffer = 16 << 20

// request makes a request about a device, with room for an answer of so many
// bytes in all.
func request(uuid string, flags uint32, size int) ([]byte, error) {
	if uuid == "" || len(uuid) >= uuidSize || strings.ContainsRune(uuid, 0) {
		return nil, errs.E(errs.Usage, "%q is no UUID of a device-mapper device", uuid)
	}
	b := make([]byte, size)
	n := binary.NativeEndian
	n.PutUint32(b[offVersion:], 4) // 4.0.0: what every kernel since 2.6 speaks
	n.PutUint32(b[offDataSize:], uint32(size))
	n.PutUint32(b[offStart:], headerSize)
	n.PutUint32(b[offFlags:], flags)
	copy(b[offUUID:], uuid)
	return b, nil
}

// text returns a string that ends with a zero byte, or with its field.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// decodeInfo reads an answer's header.
func decodeInfo(b []byte) (Info, error) {
	if len(b) < headerSize {
		return Info{}, errs.E(errs.Corrupt, "device-mapper answers with %d bytes", len(b))
	}
	n := binary.NativeEndian
	flags, dev := n.Uint32(b[offFlags:]), n.Uint64(b[offDev:])
	return Info{
		Name: text(b[offName : offName+nameSize]), UUID: text(b[offUUID : offUUID+uuidSize]),
		// The kernel's huge_encode_dev is the encoding of stat(2).
		Major: uint32(dev>>8) & 0xfff, Minor: uint32(dev&0xff | dev>>12&0xfff00),
		Opens:     int(int32(n.Uint32(b[offOpens:]))),
		Suspended: flags&flagSuspend != 0, ReadOnly: flags&flagReadOnly != 0, Live: flags&flagActive != 0,
	}, nil
}

// decodeTargets reads the lines behind an answer's header.
func decodeTargets(b []byte) ([]Target, error) {
	n := binary.NativeEndian
	bad := func(what string) ([]Target, error) {
		return nil, errs.E(errs.Corrupt, "device-mapper's status: %s", what)
	}
	if len(b) < headerSize {
		return bad("no header")
	}
	start, size := int64(n.Uint32(b[offStart:])), int64(n.Uint32(b[offDataSize:]))
	if start < headerSize || start > size || size > int64(len(b)) {
		return bad("it lies outside of the answer")
	}
	data := b[start:size]
	count := n.Uint32(b[offTargets:])
	if int64(count) > int64(len(data))/specSize {
		return bad("more lines than fit")
	}
	var out []Target
	for at, i := int64(0), uint32(0); i < count; i++ {
		if at < 0 || at+specSize > int64(len(data)) {
			return bad("a line outside of the answer")
		}
		spec := data[at:]
		out = append(out, Target{
			Start: int64(n.Uint64(spec)), Length: int64(n.Uint64(spec[8:])),
			Type: text(spec[24:specSize]), Status: text(spec[specSize:]),
		})
		next := int64(n.Uint32(spec[20:])) // from the beginning of the first line
		if i+1 < count && next <= at {
			return bad("lines that go backwards")
		}
		at = next
	}
	return out, nil
}

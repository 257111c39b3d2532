package vgtext

import (
	"strconv"
	"strings"
	"time"

	"cowl/internal/format/config"
	"cowl/internal/volume"
)

// backupTime is the form of a volume's creation time in words.
const backupTime = "2006-01-02 15:04:05 -0700"

// EncodeBackup returns the group's text in the style of LVM2's backup and
// archive files: the lines about the text first, and then the group, indented,
// with sizes in words. It is signed by s; vg itself is not changed.
func EncodeBackup(vg *volume.Group, s Signature) []byte {
	signed := *vg
	Sign(&signed, s)
	e := &encoder{
		w:          config.Writer{Indent: true},
		hideWrite:  hidesWrite(vg),
		extentSize: vg.ExtentSize,
		times: func(seconds int64) string {
			return time.Unix(seconds, 0).In(s.Time.Location()).Format(backupTime)
		},
	}
	e.w.Note = e.carriedRemark
	e.trailer(&signed)
	e.group(&signed)
	return e.w.Bytes()
}

// carriedUnits are the sizes within types of segments that cowl carries, by
// type and key, with what one of each has in sectors; 0 stands for an extent.
var carriedUnits = map[string]float64{
	"thin-pool chunk_size":             1,
	"vdo-pool header_size":             1,
	"vdo-pool virtual_extents":         0,
	"vdo-pool block_map_cache_size_mb": 2048,
	"vdo-pool index_memory_size_mb":    2048,
	"vdo-pool slab_size_mb":            2048,
}

// carriedRemark returns the remark for an entry that cowl does not know: what
// is a time or a size in words. A type may have flags behind a plus sign.
func (e *encoder) carriedRemark(n config.Node) string {
	if n.Value.Kind != config.Int {
		return ""
	}
	if n.Key == "creation_time" || n.Key == "removal_time" { // of volumes that are history
		return e.times(n.Value.Int)
	}
	name, _, _ := strings.Cut(string(e.segmentType), "+")
	unit, ok := carriedUnits[name+" "+n.Key]
	if !ok {
		return ""
	}
	if unit == 0 {
		unit = float64(e.extentSize)
	}
	return sizeInWords(float64(n.Value.Int) * unit)
}

// sizeInWords gives a number of sectors as LVM2 remarks it: six significant
// digits, and up to 1024 of a unit before the next one is used.
func sizeInWords(sectors float64) string {
	units := []string{"Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Petabytes", "Exabytes"}
	size := sectors / 2
	for size > 1024 && len(units) > 1 {
		size /= 1024
		units = units[1:]
	}
	return strconv.FormatFloat(size, 'g', 6, 64) + " " + units[0]
}

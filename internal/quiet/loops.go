package quiet

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cowl/internal/freeze"
)

// sysBlock is where Linux describes block devices. Elsewhere there is nothing.
const sysBlock = "/sys/class/block"

// loopsOver returns the loop devices over a file or device, with their partitions
// and what stands on either (an encrypted volume, say).
func loopsOver(path string) (out []freeze.Device) {
	want, err := os.Stat(path)
	if path == "" || err != nil {
		return nil
	}
	found, _ := filepath.Glob(sysBlock + "/loop*/loop/backing_file")
	for _, loop := range found {
		text, err := os.ReadFile(loop)
		if err != nil {
			continue // detached meanwhile
		}
		if st, err := os.Stat(strings.TrimSuffix(string(text), "\n")); err == nil && os.SameFile(st, want) {
			out = append(out, deviceTree(filepath.Dir(filepath.Dir(loop)))...)
		}
	}
	return out
}

// deviceTree returns a device of sysBlock with its partitions and what stands on
// them. The kernel sees to it that nothing stands on itself.
func deviceTree(dir string) []freeze.Device {
	text, err := os.ReadFile(filepath.Join(dir, "dev"))
	major, minor, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	if !ok || errors.Join(err, errA, errB) != nil {
		return nil
	}
	out := []freeze.Device{{Major: uint32(a), Minor: uint32(b)}}
	parts, _ := filepath.Glob(filepath.Join(dir, filepath.Base(dir)+"*", "partition"))
	for _, p := range parts {
		out = append(out, deviceTree(filepath.Dir(p))...)
	}
	holders, _ := filepath.Glob(filepath.Join(dir, "holders", "*"))
	for _, h := range holders {
		out = append(out, deviceTree(filepath.Join(sysBlock, filepath.Base(h)))...)
	}
	return out
}

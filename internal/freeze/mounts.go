package freeze

import (
	"bufio"
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// parseMounts reads what /proc/PID/mountinfo holds; see proc_pid_mountinfo(5).
// Lines that are none are left out.
func parseMounts(text []byte) []Mount {
	var out []Mount
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok {
			m.Depth = len(out)
			out = append(out, m)
		}
	}
	return out
}

// parseMount reads a line:
//
//	36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda1 rw
func parseMount(line string) (Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if !ok || len(f) < 6 || len(g) < 2 {
		return Mount{}, false
	}
	major, minor, ok := strings.Cut(f[2], ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err != nil || err2 != nil {
		return Mount{}, false
	}
	return Mount{
		Point: unescape(f[4]), Type: g[0], Source: unescape(g[1]), Device: Device{uint32(a), uint32(b)},
	}, true
}

// unescape turns \040 and its like into what they stand for.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Order leaves one mount of each file system, the one that was mounted last
// first: a file system in a file of another one must be frozen before that.
func Order(mounts []Mount) []Mount {
	slices.SortStableFunc(mounts, func(a, b Mount) int { return cmp.Compare(b.Depth, a.Depth) })
	seen := map[Device]bool{}
	return slices.DeleteFunc(mounts, func(m Mount) bool {
		double := seen[m.Device]
		seen[m.Device] = true
		return double
	})
}

package manager

import "golang.org/x/sys/unix"

// kernelVersion describes the running kernel as LVM2's metadata has it in a
// remark: uname -snrvm.
func kernelVersion(host string) string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	text := unix.ByteSliceToString
	return text(u.Sysname[:]) + " " + host + " " + text(u.Release[:]) + " " + text(u.Version[:]) + " " + text(u.Machine[:])
}

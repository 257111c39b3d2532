// Package guest is the part of the kernel harness that runs inside the virtual
// machine: process 1 of its initramfs. It mounts what Linux tools expect,
// loads the modules, and then does what the test asks for over a virtio
// serial port, as Go's net/rpc: run a script, write and read devices, power
// off. It holds no policy; package kerneltest is what tests use.
package guest

// Port is the name of the virtio serial port.
const Port = "cowl"

// Modules is where the initramfs keeps the kernel modules, in loading order,
// one path a line.
const Modules = "/modules.list"

// Command is a script for the shell.
type Command struct {
	Script string
}

// Result is what a script printed, standard error included, and how it ended.
type Result struct {
	Output []byte
	Status int
}

// Write is data for a file or block device.
type Write struct {
	Path string
	Off  int64
	Data []byte
	// Mode of a file that does not exist yet. 0: it must exist.
	Mode uint32
}

// Read asks for a range of a file or block device; a Len of -1 is all of it.
type Read struct {
	Path     string
	Off, Len int64
}

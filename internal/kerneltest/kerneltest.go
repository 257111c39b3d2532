// Package kerneltest lets a test ask a real Linux kernel: it boots Debian's
// kernel with device-mapper, lvm2 and e2fsprogs in a virtual machine on image
// files that the test gives it, and runs scripts there. Software emulation is
// enough (a boot takes a few seconds) and needs neither root nor KVM.
//
//	vm := kerneltest.Boot(t, image)         // image is /dev/vda
//	vm.Sh(`vgchange -ay vg0`)
//	sum := vm.Sh(`md5sum < /dev/vg0/base`)
//	vm.Off()                                // now the image is the test's again
//
// An image belongs to the machine from Boot to Off or Cut: nothing else may
// have it open for writing then, and what is read from it may be old. Release
// lends images to the test in between, which is quicker than another boot.
//
// Kernel and initramfs are built when they are first asked for, about 10 s,
// and kept under COWL_KERNEL_LAB or the user's cache directory in a folder
// that is named after the recipe. Where that cannot be done (not Linux, no
// qemu, no apt) tests skip, or fail where judges are required (package judge).
//
// It is not a way to test the kernel's own crash safety: killing the machine
// loses what its kernel had not written, but nothing that it had.
package kerneltest

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cowl/internal/judge"
	"cowl/internal/kerneltest/guest"
)

// callTime bounds one call. Emulation is slow, and the machine may be busy.
const callTime = 3 * time.Minute

// Write is a write to a file or block device of the machine.
type Write = guest.Write

// VM is a running machine. It is used from one goroutine. Except where a
// method says otherwise, what goes wrong ends the test.
type VM struct {
	t      testing.TB
	m      *machine
	client *rpc.Client
}

// Run boots a machine on the images, runs the script, switches the machine off
// and returns what the script printed, standard error included, and its exit
// status.
func Run(t testing.TB, script string, images ...string) (output string, status int) {
	t.Helper()
	vm := Boot(t, images...)
	output, status = vm.Try(script)
	vm.Off()
	return output, status
}

// Boot starts a machine with the images as /dev/vda, /dev/vdb, ... It is
// killed when the test ends.
func Boot(t testing.TB, images ...string) *VM {
	t.Helper()
	return Machine{Images: images}.Boot(t)
}

// Machine is what a machine has.
type Machine struct {
	Images []string
	// Agent is where qemu makes the socket of a guest agent, whose port
	// org.qemu.guest_agent.0 is the second of the machine's. "": none.
	Agent string
}

// Boot starts the machine. It is killed when the test ends.
func (has Machine) Boot(t testing.TB) *VM {
	t.Helper()
	l, err := find()
	if errors.As(err, new(absentError)) {
		judge.Absent(t, "%v", err)
	}
	if err != nil {
		t.Fatalf("kernel lab: %v", err)
	}
	m, err := l.start(has)
	if err != nil {
		t.Fatalf("kernel lab: %v", err)
	}
	t.Cleanup(m.kill)
	vm := &VM{t: t, m: m, client: rpc.NewClient(m.port)}
	// The first call is answered when the machine is up.
	var r guest.Result
	vm.must("boot", vm.call(bootTime, "Run", guest.Command{Script: ":"}, &r))
	return vm
}

// Sh runs a script with busybox sh, as root in /root, and returns what it
// printed, standard error included, without the last newline. A status other
// than 0 ends the test. The script stops at its first failing command (set -e).
func (vm *VM) Sh(script string) string {
	vm.t.Helper()
	output, status := vm.Try("set -e\n" + script)
	if status != 0 {
		vm.t.Fatalf("in the machine, exit status %d:\n%s\n--\n%s", status, strings.TrimSpace(script), output)
	}
	return strings.TrimSuffix(output, "\n")
}

// Try runs a script and returns what it printed and its exit status.
func (vm *VM) Try(script string) (output string, status int) {
	vm.t.Helper()
	var r guest.Result
	vm.must("run a script", vm.call(callTime, "Run", guest.Command{Script: script}, &r))
	return string(r.Output), r.Status
}

// Load loads kernel modules, and what they depend on, which are not loaded when
// the machine boots: dm-thin-pool, dm-raid, ... (see the recipe).
func (vm *VM) Load(modules ...string) {
	vm.t.Helper()
	for _, name := range modules {
		vm.Sh(`for file in $(cat ` + loadList(name) + `); do
				name=${file##*/}
				grep -q "^${name%.ko} " /proc/modules || insmod $file
			done`)
	}
}

// Write performs the writes in order and flushes the devices.
func (vm *VM) Write(writes ...Write) {
	vm.t.Helper()
	vm.must("write", vm.TryWrite(writes...))
}

// TryWrite is Write for writes that may fail, on a snapshot that overflows for
// example. After an error nothing is known of what was written.
func (vm *VM) TryWrite(writes ...Write) error {
	return vm.call(callTime, "Write", writes, &struct{}{})
}

// Read returns a range of a file or block device, in bytes; a length of -1 is
// all of it. It reads the device, not the guest's page cache.
func (vm *VM) Read(path string, off, length int64) []byte {
	vm.t.Helper()
	data, err := vm.TryRead(path, off, length)
	vm.must("read "+path, err)
	return data
}

// TryRead is Read for devices that may refuse.
func (vm *VM) TryRead(path string, off, length int64) ([]byte, error) {
	var data []byte
	err := vm.call(callTime, "Read", guest.Read{Path: path, Off: off, Len: length}, &data)
	return data, err
}

// Put copies a file of the host to a path in the machine, executable.
func (vm *VM) Put(local, remote string) {
	vm.t.Helper()
	data, err := os.ReadFile(local)
	vm.must("put "+filepath.Base(local), err)
	vm.Write(Write{Path: remote, Data: data, Mode: 0o755})
}

// Install copies a program of the host to the same path in the machine, with the
// libraries that it needs.
func (vm *VM) Install(program string) {
	vm.t.Helper()
	libs, err := libraries(program)
	vm.must("install "+program, err)
	for _, path := range append(libs, program) {
		vm.Sh("mkdir -p " + filepath.Dir(path))
		vm.Put(path, path)
	}
}

// Release lends the images behind some of the machine's disks (/dev/vda, ...)
// to the test: their content is written back and the kernel forgets it. It
// fails if a mount or a device-mapper table in the machine still uses one. The
// test may open the images until it next calls the machine.
func (vm *VM) Release(disks ...string) {
	vm.t.Helper()
	vm.must("release disks", vm.call(callTime, "Release", disks, &struct{}{}))
}

// Off ends the machine as an administrator would: everything is written back,
// then the power goes off. The images are the caller's again.
func (vm *VM) Off() {
	vm.t.Helper()
	err := vm.call(callTime, "Off", struct{}{}, &struct{}{})
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, rpc.ErrShutdown) {
		vm.must("power off", err)
	}
	select {
	case <-vm.m.ended:
	case <-time.After(callTime):
		vm.must("power off", errors.New("qemu does not end"))
	}
}

// Cut pulls the plug: the machine is gone at once, with all that its kernel
// had not yet written. The images are the caller's again.
func (vm *VM) Cut() { vm.m.kill() }

// call asks the guest and waits for at most the given time.
func (vm *VM) call(limit time.Duration, method string, args, reply any) error {
	call := vm.client.Go("Service."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return call.Error
	case <-time.After(limit):
		vm.m.kill()
		return fmt.Errorf("no answer within %v", limit)
	}
}

// must ends the test after an error, with what the kernel had to say.
func (vm *VM) must(what string, err error) {
	vm.t.Helper()
	if err != nil {
		vm.t.Fatalf("kernel lab: %s: %v\nconsole:\n%s", what, err, vm.m.console)
	}
}

package kerneltest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cowl/internal/judge"
	"cowl/internal/kerneltest/guest"
)

// bootTime is long after a boot on a busy machine would be done (3 s alone).
const bootTime = 2 * time.Minute

// console keeps what the kernel printed.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

// String returns the end of it.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := strings.ReplaceAll(c.text.String(), "\r", "")
	return text[max(0, len(text)-4000):]
}

// machine is a running qemu.
type machine struct {
	cmd     *exec.Cmd
	port    net.Conn // the guest's serial port
	console *console
	ended   chan struct{} // closed when qemu is gone
}

// start runs qemu and waits until its side of the serial port is connected.
func (l lab) start(has Machine) (*machine, error) {
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "cowl-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "port")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	defer listener.Close()

	m := &machine{console: &console{}, ended: make(chan struct{})}
	m.cmd = exec.Command(judge.Find("qemu-system-x86_64"), l.arguments(socket, has)...)
	m.cmd.Stdout = m.console
	m.cmd.Stderr = m.console
	m.cmd.SysProcAttr = diesWithParent()
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		m.cmd.Wait()
		listener.Close() // a qemu that refused its arguments never connects
		close(m.ended)
	}()
	listener.(*net.UnixListener).SetDeadline(time.Now().Add(bootTime))
	if m.port, err = listener.Accept(); err != nil {
		m.kill()
		return nil, fmt.Errorf("qemu does not start: %w\n%s", err, m.console)
	}
	return m, nil
}

// arguments are qemu's. The images are the disks vda, vdb, ... Their writes go to
// the host's page cache: what the guest has completed is in the image, also
// when qemu is killed.
func (l lab) arguments(socket string, has Machine) []string {
	args := []string{
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", l.kernel, "-initrd", l.initrd,
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,path=" + socket,
		"-device", "virtserialport,chardev=port,name=" + guest.Port,
	}
	if has.Agent != "" {
		args = append(args, "-chardev", "socket,id=agent,server=on,wait=off,path="+has.Agent,
			"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
	}
	for _, image := range has.Images {
		args = append(args, "-drive", "if=virtio,format=raw,cache=writeback,discard=unmap,file="+
			strings.ReplaceAll(image, ",", ",,"))
	}
	return args
}

// kill ends qemu at once and waits until it is gone.
func (m *machine) kill() {
	m.cmd.Process.Kill()
	<-m.ended
	if m.port != nil {
		m.port.Close()
	}
}

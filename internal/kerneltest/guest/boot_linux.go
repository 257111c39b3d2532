package guest

import (
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// environment is what scripts run with. There is no udev in the initramfs, so
// lvm and dmsetup must make their device nodes themselves.
var environment = map[string]string{
	"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb",
	"DM_DISABLE_UDEV": "1", "LVM_SUPPRESS_FD_WARNINGS": "1",
}

// Main is process 1. It returns only to report why the machine is of no use;
// the text goes to the console.
func Main() error {
	if err := mount(); err != nil {
		return err
	}
	for k, v := range environment {
		os.Setenv(k, v)
	}
	if err := loadModules(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.Register(Service{}); err != nil {
		return err
	}
	// Returns when the host closes its end, because the test is over or died.
	server.ServeConn(port)
	PowerOff()
	return nil
}

// PowerOff writes back what is dirty and ends the machine.
func PowerOff() {
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

func mount() error {
	for _, m := range []struct{ fstype, dir string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := syscall.Mount(m.fstype, m.dir, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return os.MkdirAll("/run/lock/lvm", 0o755)
}

func loadModules() error {
	list, err := os.ReadFile(Modules)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := initModule(text); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// openPort finds the serial port by its name: /dev/vport0p1 or the like.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err == nil && strings.TrimSpace(string(text)) == Port {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio port named %s among %d", Port, len(names))
}

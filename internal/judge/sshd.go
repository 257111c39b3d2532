package judge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// SSH is a real sshd, for this test and this user alone.
type SSH struct {
	Port                    int
	User                    string
	Key, KnownHosts, config string
}

// StartSSH starts one that serves SFTP on a port of the loopback interface, and
// ends it with the test.
func StartSSH(t testing.TB) *SSH {
	t.Helper()
	Need(t, "sshd", "ssh", "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &SSH{User: me.Username, Key: filepath.Join(dir, "key"), KnownHosts: filepath.Join(dir, "known_hosts"), config: filepath.Join(dir, "sshd_config")}
	for _, key := range []string{"key", "host"} {
		if out, err := exec.Command(Find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	s.Port = freePort(t)
	host, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.KnownHosts, fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, host))
	write(t, s.config, fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %s/host
AuthorizedKeysFile %s/key.pub
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
`, s.Port, dir, dir))
	if os.Geteuid() == 0 { // Debian's service makes it, where sshd is one
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var talk strings.Builder
	cmd := exec.Command(Find("sshd"), "-D", "-e", "-f", s.config)
	cmd.Stderr, cmd.WaitDelay = &talk, time.Second // its sessions may outlive it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
		if err == nil {
			c.Close()
			return s
		}
		select {
		case <-ended:
			t.Fatalf("sshd ended:\n%s", talk.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Command is an ssh that knows the server and has a key for it, and nothing of
// the user's.
func (s *SSH) Command(more ...string) string {
	args := []string{"ssh", "-F", "none", "-i", s.Key, "-oIdentitiesOnly=yes", "-oBatchMode=yes", "-oGlobalKnownHostsFile=none"}
	return strings.Join(append(append(args, more...), "-oUserKnownHostsFile="+s.KnownHosts), " ")
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

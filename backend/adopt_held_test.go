package backend

import (
	"bufio"
	"os/exec"
	"testing"
)

// holdOpen has another process keep a folder open until release is called.
func holdOpen(t *testing.T, dir string) (release func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `exec 3<"$1"; echo open; read end`, "sh", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return func() {
		in.Close()
		_ = cmd.Wait() // "read" fails at the end of its input
	}
}

package prelogin_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"waypost/proxy/prelogin"
	"waypost/proxy/proxytest"
)

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 3000) // longer than the buffer
	c, err := prelogin.NewConn(proxytest.NewCanned([]byte("a\r\nb\n\r\n"+long+"\r\n12345\r\n12345\r\ntail")), proxytest.Limits())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", "b", "", long} {
		if line, err := c.ReadLine(4000); string(line) != want || err != nil {
			t.Fatalf("got %.20q, %v; want %.20q", line, err, want)
		}
	}
	if line, err := c.ReadLine(7); string(line) != "12345" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := c.ReadLine(6); !errors.Is(err, prelogin.ErrLineTooLong) {
		t.Fatal(err)
	}
	if _, err := c.ReadLine(100); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestStartTLSRefusesPipelined(t *testing.T) {
	c, err := prelogin.NewConn(proxytest.NewCanned([]byte("STARTTLS\r\nLOGIN\r\n")), proxytest.Limits())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadLine(100); err != nil {
		t.Fatal(err)
	}
	server, _ := proxytest.TLS(t)
	if err := c.StartTLS(context.Background(), server); !errors.Is(err, prelogin.ErrInjection) {
		t.Fatal(err)
	}
	if _, rest, err := c.Release(); string(rest) != "LOGIN\r\n" || err != nil {
		t.Fatalf("%q, %v", rest, err)
	}
}

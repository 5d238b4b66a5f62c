package bench

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
)

// ParseTarget makes a Target of what an operator says: host:port or the path of
// a socket, "smtp" or "lmtp", and plain addresses.
func ParseTarget(where, protocol, from string, to []string) (Target, error) {
	t := Target{Network: "tcp", Addr: where, From: from, SMTP: protocol == "smtp"}
	switch protocol {
	case "smtp", "lmtp":
	default:
		return t, fmt.Errorf("protocol %q: want smtp or lmtp", protocol)
	}
	if strings.HasPrefix(where, "/") {
		t.Network = "unix"
	} else if _, _, err := net.SplitHostPort(where); err != nil {
		return t, fmt.Errorf("target %q: want HOST:PORT or the path of a socket", where)
	}
	if from != "" && !plain(from) {
		return t, fmt.Errorf("sender %q: want USER@DOMAIN", from)
	}
	if len(to) == 0 {
		return t, fmt.Errorf("say who gets the messages: USER@DOMAIN")
	}
	for _, addr := range to {
		if !plain(addr) {
			return t, fmt.Errorf("recipient %q: want USER@DOMAIN", addr)
		}
		t.To = append(t.To, Recipient{Address: addr})
	}
	return t, nil
}

// plain takes addresses that need no quoting in a command.
func plain(addr string) bool {
	local, domain, ok := strings.Cut(addr, "@")
	return ok && local != "" && domain != "" && !strings.ContainsFunc(addr, func(r rune) bool {
		return r <= ' ' || r == '<' || r == '>' || r == '"' || r == 127
	})
}

// Local tells whether the target is on this machine for sure: a socket, or a
// loopback address. A name is not, whatever it stands for now, but localhost.
func (t Target) Local() bool {
	if t.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Summary is what a Load measured of a server whose insides are not ours to see.
type Summary struct {
	Messages          int64    `json:"messages"`
	Errors            int64    `json:"errors"`
	ErrorSamples      []string `json:"error_samples,omitempty"`
	Seconds           float64  `json:"seconds"`
	MessagesPerSecond float64  `json:"messages_per_second"`
	MedianMS          float64  `json:"median_ms"`
	P99MS             float64  `json:"p99_ms"`
	GeneratorCPUMS    float64  `json:"generator_cpu_ms_per_message"`
}

// Summarize sums a result up.
func Summarize(r Result) Summary {
	return Summary{Messages: r.Measured, Errors: r.Errors, ErrorSamples: r.Samples, Seconds: r.Elapsed.Seconds(),
		MessagesPerSecond: Ratio(float64(r.Measured), r.Elapsed.Seconds()), GeneratorCPUMS: perMessage(r.GeneratorCPU, r.Measured),
		MedianMS: Millis(r.Latencies.Quantile(0.5)), P99MS: Millis(r.Latencies.Quantile(0.99))}
}

// Print prints it for a terminal.
func (s Summary) Print(w io.Writer) {
	fmt.Fprintf(w, "messages       %d in %.1f s, %.0f a second\n", s.Messages, s.Seconds, s.MessagesPerSecond)
	fmt.Fprintf(w, "latency        median %.2f ms, 99%% under %.2f ms\n", s.MedianMS, s.P99MS)
	fmt.Fprintf(w, "errors         %d\n", s.Errors)
	fmt.Fprintf(w, "generator CPU  %.3f ms a message\n", s.GeneratorCPUMS)
	for _, e := range s.ErrorSamples {
		fmt.Fprintf(w, "error          %s\n", e)
	}
}

package zaplog

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestLevelsAndFields(t *testing.T) {
	var out bytes.Buffer
	lg := New(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelWarn, slog.LevelError).With(zap.String("member", "m1"))
	lg.Info("not this")
	lg.Warn("slow disk", zap.Int("took", 3))
	lg.Error("failed", zap.Error(errors.New("why")))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", out.String())
	}
	for i, want := range [][]string{{"level=WARN", `"etcd: slow disk"`, "took=3", "member=m1"}, {"level=ERROR", `"etcd: failed"`, "error=why", "member=m1"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%q lacks %q", lines[i], w)
			}
		}
	}
}

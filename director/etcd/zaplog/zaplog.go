// Package zaplog hands what etcd's zap loggers say to a slog.Logger, warnings
// and worse only: etcd tells a great deal. It keeps nothing.
package zaplog

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New gives a zap logger that writes to log. Warnings become level warn, and
// what is worse becomes level worse at most.
func New(log *slog.Logger, warn, worse slog.Level) *zap.Logger {
	return zap.New(core{log: log, warn: warn, worse: worse})
}

type core struct {
	log         *slog.Logger
	warn, worse slog.Level
}

// Enabled implements zapcore.LevelEnabler.
func (c core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.log = slog.New(c.log.Handler().WithAttrs(attrs(fields)))
	return c
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// meant are warnings about what is so on purpose, at every start: the embedded
// member serves one port, and its tokens are never used, as clients prove
// themselves with certificates.
var meant = []string{"Running http and grpc server on single port", "simple token is not cryptographically signed"}

// Write implements zapcore.Core.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	for _, m := range meant {
		if strings.HasPrefix(e.Message, m) {
			return nil
		}
	}
	level := c.warn
	if e.Level > zapcore.WarnLevel {
		level = c.worse
	}
	c.log.LogAttrs(context.Background(), level, "etcd: "+e.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c core) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	as := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			as = append(as, slog.Any(f.Key, v))
		}
	}
	return as
}

package imap

import "waypost/backend/imap/syntax"

// quotaRoot is the name of the one quota root: the account (RFC 9208, Section 3.2).
const quotaRoot = "User quota"

// getQuota implements GETQUOTA (RFC 9208, Section 4.1.1).
func (s *session) getQuota(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	root, err := c.AString()
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	if root != quotaRoot {
		return no("NONEXISTENT", "no such quota root")
	}
	return s.tellQuota()
}

// getQuotaRoot implements GETQUOTAROOT (RFC 9208, Section 4.1.2).
func (s *session) getQuotaRoot(c *cmd) error {
	name, err := s.onlyMailbox(c)
	if err != nil {
		return err
	}
	if err := s.mayFolder(name, 'r'); err != nil {
		return err
	}
	s.out.Raw("* QUOTAROOT ").Mailbox(name)
	if !s.personal(name) {
		// Whose folder it is, pays for it.
		s.out.CRLF()
		return nil
	}
	s.out.SP().AString(quotaRoot).CRLF()
	return s.tellQuota()
}

// tellQuota writes a QUOTA response. A resource without a limit is not in it (RFC 9208,
// Section 5.1).
func (s *session) tellQuota() error {
	used, err := s.box.Usage()
	if err != nil {
		return s.fail(err)
	}
	limit := s.box.Limit()
	s.out.Raw("* QUOTA ").AString(quotaRoot).Raw(" (")
	if limit.Bytes > 0 {
		// STORAGE counts in units of 1,024 bytes.
		s.out.Raw("STORAGE ").Number(uint64(max(used.Bytes, 0)+1023) / 1024).SP().Number(uint64(limit.Bytes) / 1024)
	}
	if limit.Messages > 0 {
		if limit.Bytes > 0 {
			s.out.SP()
		}
		s.out.Raw("MESSAGE ").Number(uint64(max(used.Messages, 0))).SP().Number(uint64(limit.Messages))
	}
	s.out.Byte(')').CRLF()
	return s.out.Err()
}

// setQuota refuses SETQUOTA (RFC 9208, Section 4.1.3): limits are the operator's.
func (s *session) setQuota(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	if _, err := c.AString(); err != nil {
		return err
	}
	if err := c.SP(); err != nil {
		return err
	}
	n := 0
	err := c.List(true, func() error {
		n++
		if n%2 == 1 {
			_, err := c.Name()
			return err
		}
		_, err := c.Number64()
		return err
	})
	if err == nil && n%2 == 1 {
		err = syntax.Syntax("a resource without a limit")
	}
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	return no("NOPERM", "the administrator sets quotas")
}

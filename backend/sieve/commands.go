package sieve

var (
	flagsTag = map[string]tagSpec{"flags": {"imap4flags", []argKind{argList}}}
	copyTag  = map[string]tagSpec{"copy": {extension: "copy"}}

	fileIntoTags = tagsOf(flagsTag, copyTag, map[string]tagSpec{
		"create":     {extension: "mailbox"},
		"specialuse": {"special-use", []argKind{argString}},
	})
	redirectTags = tagsOf(copyTag, map[string]tagSpec{"list": {extension: "extlists"}})
	vacationTags = map[string]tagSpec{
		"days": {"", []argKind{argNumber}}, "seconds": {"vacation-seconds", []argKind{argNumber}},
		"subject": {"", []argKind{argString}}, "from": {"", []argKind{argString}},
		"addresses": {"", []argKind{argList}}, "mime": {}, "handle": {"", []argKind{argString}},
	}
	notifyTags = map[string]tagSpec{
		"from": {"", []argKind{argString}}, "importance": {"", []argKind{argString}},
		"options": {"", []argKind{argList}}, "message": {"", []argKind{argString}},
	}
	includeTags = map[string]tagSpec{"personal": {}, "global": {}, "once": {}, "optional": {}}
	setTags     = map[string]tagSpec{
		"lower": {}, "upper": {}, "lowerfirst": {}, "upperfirst": {}, "quotewildcard": {}, "length": {},
		"quoteregex": {extension: "regex"}, "encodeurl": {extension: "enotify"},
	}
	lastTag      = map[string]tagSpec{"last": {}}
	deleteTags   = map[string]tagSpec{"index": {"", []argKind{argNumber}}, "last": {}}
	oneString    = []argKind{argString}
	oneList      = []argKind{argList}
	twoStrings   = []argKind{argString, argString}
	twoLists     = []argKind{argList, argList}
	stringList   = []argKind{argString, argList}
	twoPlusLists = []argKind{argString, argString, argList}
)

// commandNamed gives what a command is; name is in lower case.
func commandNamed(name string) (d commandDef, ok bool) {
	switch name {
	case "stop":
		d = commandDef{"", spec{}, compileStop}
	case "keep":
		d = commandDef{"", spec{tags: flagsTag}, compileKeep}
	case "discard":
		d = commandDef{"", spec{}, compileDiscard}
	case "redirect":
		d = commandDef{"", spec{tags: redirectTags, args: oneString, least: 1}, compileRedirect}
	case "fileinto":
		d = commandDef{"fileinto", spec{tags: fileIntoTags, args: oneString, least: 1}, compileFileInto}
	case "reject", "ereject":
		d = commandDef{name, spec{args: oneString, least: 1}, compileReject}
	case "set":
		d = commandDef{"variables", spec{tags: setTags, args: twoStrings, least: 2}, compileSet}
	case "setflag", "addflag", "removeflag":
		d = commandDef{"imap4flags", spec{args: stringList, least: 1, front: true}, compileFlags}
	case "vacation":
		d = commandDef{"vacation", spec{tags: vacationTags, args: oneString, least: 1}, compileVacation}
	case "addheader":
		d = commandDef{"editheader", spec{tags: lastTag, args: twoStrings, least: 2}, compileAddHeader}
	case "deleteheader":
		d = commandDef{"editheader", spec{tags: deleteTags, match: true, args: stringList, least: 1}, compileDeleteHeader}
	case "include":
		d = commandDef{"include", spec{tags: includeTags, args: oneString, least: 1}, compileInclude}
	case "return":
		d = commandDef{"include", spec{}, compileReturn}
	case "global":
		d = commandDef{"include", spec{args: oneList, least: 1}, compileGlobal}
	case "notify":
		d = commandDef{"enotify", spec{tags: notifyTags, args: oneString, least: 1}, compileNotify}
	case "error":
		d = commandDef{"ihave", spec{args: oneString, least: 1}, compileError}
	default:
		return d, false
	}
	return d, true
}

var (
	zoneTags      = map[string]tagSpec{"zone": {"", []argKind{argString}}}
	dateTags      = tagsOf(zoneTags, map[string]tagSpec{"originalzone": {}})
	sizeTags      = map[string]tagSpec{"over": {"", []argKind{argNumber}}, "under": {"", []argKind{argNumber}}}
	bodyTags      = map[string]tagSpec{"raw": {}, "text": {}, "content": {"", []argKind{argList}}}
	duplicateTags = map[string]tagSpec{
		"header": {"", []argKind{argString}}, "uniqueid": {"", []argKind{argString}},
		"handle": {"", []argKind{argString}}, "seconds": {"", []argKind{argNumber}}, "last": {},
	}
	percentTag = map[string]tagSpec{"percent": {extension: "spamtestplus"}}
)

// testNamed gives what a test is; name is in lower case.
func testNamed(name string) (d testDef, ok bool) {
	switch name {
	case "true", "false":
		d = testDef{"", spec{}, compileConstant}
	case "not":
		d = testDef{"", spec{tests: oneTest}, compileNot}
	case "allof", "anyof":
		d = testDef{"", spec{tests: someTests}, compileJoin}
	case "header":
		d = testDef{"", spec{match: true, index: true, args: twoLists, least: 2}, compileHeader}
	case "address":
		d = testDef{"", spec{match: true, part: true, index: true, args: twoLists, least: 2}, compileAddress}
	case "envelope":
		d = testDef{"envelope", spec{match: true, part: true, args: twoLists, least: 2}, compileEnvelope}
	case "exists":
		d = testDef{"", spec{args: oneList, least: 1}, compileExists}
	case "size":
		d = testDef{"", spec{tags: sizeTags}, compileSize}
	case "string":
		d = testDef{"variables", spec{match: true, args: twoLists, least: 2}, compileString}
	case "hasflag":
		d = testDef{"imap4flags", spec{match: true, args: twoLists, least: 1, front: true}, compileHasFlag}
	case "body":
		d = testDef{"body", spec{tags: bodyTags, match: true, args: oneList, least: 1}, compileBody}
	case "date":
		d = testDef{"date", spec{tags: dateTags, match: true, index: true, args: twoPlusLists, least: 3}, compileDate}
	case "currentdate":
		d = testDef{"date", spec{tags: zoneTags, match: true, args: stringList, least: 2}, compileDate}
	case "duplicate":
		d = testDef{"duplicate", spec{tags: duplicateTags}, compileDuplicate}
	case "environment":
		d = testDef{"environment", spec{match: true, args: stringList, least: 2}, compileEnvironment}
	default:
		return laterTestNamed(name)
	}
	return d, true
}

// laterTestNamed knows the tests of the smaller extensions.
func laterTestNamed(name string) (d testDef, ok bool) {
	switch name {
	case "mailboxexists":
		d = testDef{"mailbox", spec{args: oneList, least: 1}, compileMailboxExists}
	case "specialuse_exists":
		d = testDef{"special-use", spec{args: stringList, least: 1, front: true}, compileSpecialUseExists}
	case "valid_notify_method":
		d = testDef{"enotify", spec{args: oneList, least: 1}, compileValidNotify}
	case "notify_method_capability":
		d = testDef{"enotify", spec{match: true, args: twoPlusLists, least: 3}, compileNotifyCapability}
	case "ihave":
		d = testDef{"ihave", spec{args: oneList, least: 1}, compileIHave}
	case "spamtest":
		d = testDef{"spamtest", spec{tags: percentTag, match: true, args: oneString, least: 1}, compileScore}
	case "virustest":
		d = testDef{"virustest", spec{match: true, args: oneString, least: 1}, compileScore}
	case "valid_ext_list":
		d = testDef{"extlists", spec{args: oneList, least: 1}, compileValidList}
	default:
		return d, false
	}
	return d, true
}

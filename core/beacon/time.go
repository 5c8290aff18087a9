package beacon

// rfc3339 reads an RFC 3339 time with capital T and Z as ms since the epoch; digits past the millisecond are cut.
// ok is false for any other form, and for what no calendar has; a leap second is none.
//
// time.Parse will not do: it takes a comma before the fraction and one-digit hours.
func rfc3339(s []byte) (ms int64, ok bool) {
	const form = "dddd-dd-ddTdd:dd:dd"
	if len(s) <= len(form) || !fits(s[:len(form)], form) {
		return 0, false
	}
	year, month, day := pair(s, 0)*100+pair(s, 2), pair(s, 5), pair(s, 8)
	hour, minute, second := pair(s, 11), pair(s, 14), pair(s, 17)
	if month < 1 || month > 12 || day < 1 || day > monthDays(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	s = s[len(form):]
	if s[0] == '.' {
		n := digits(s, 1)
		if n == 1 {
			return 0, false
		}
		unit := int64(100)
		for _, c := range s[1:min(n, 4)] {
			ms += int64(c-'0') * unit
			unit /= 10
		}
		s = s[n:]
	}
	offset := int64(0) // minutes east
	if len(s) != 1 || s[0] != 'Z' {
		if len(s) != 6 || s[0] != '+' && s[0] != '-' || !fits(s[1:], "dd:dd") {
			return 0, false
		}
		h, m := pair(s, 1), pair(s, 4)
		if h > 23 || m > 59 {
			return 0, false
		}
		if offset = h*60 + m; s[0] == '-' {
			offset = -offset
		}
	}
	minutes := (days(year, month, day)*24+hour)*60 + minute - offset
	return (minutes*60+second)*1000 + ms, true
}

// fits says whether s has the form, of the same length, in which d is a digit.
func fits(s []byte, form string) bool {
	for i := range len(form) {
		if form[i] == 'd' && s[i]-'0' > 9 || form[i] != 'd' && s[i] != form[i] {
			return false
		}
	}
	return true
}

func pair(s []byte, i int) int64 {
	return int64(s[i]-'0')*10 + int64(s[i+1]-'0')
}

func monthDays(year, month int64) int64 {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// days counts from 1970-01-01 in the proleptic Gregorian calendar. The year is taken to begin in March, so that
// the leap day is its last.
func days(year, month, day int64) int64 {
	month -= 3
	if month < 0 {
		month += 12
		year--
	}
	year += 400 // January of the year 0 lies in the year -1
	return year*365 + year/4 - year/100 + year/400 + (153*month+2)/5 + day - 1 - 719_468 - 146_097
}

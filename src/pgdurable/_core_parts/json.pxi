# JSON of single values out of C memory, byte for byte what `codec.encode` writes for the same value.

cdef extern from "Python.h":
    char *PyOS_double_to_string(double value, char code, int precision, int flags, int *kind) except NULL
    void PyMem_Free(void *data)

cdef extern from "math.h" nogil:
    double rint(double value)
    bint isfinite(double value)

cdef enum:
    MOST_DIGITS = 20

cdef double[16] TENS = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15]
cdef const char *HEX = b"0123456789abcdef"
cdef const char *BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef inline int put_char(Buffer *b, char value) except -1 nogil:
    return put_bytes(b, &value, 1)


cdef int json_u64(Buffer *b, uint64_t value) except -1 nogil:
    cdef char[MOST_DIGITS] digits
    cdef int at = MOST_DIGITS
    while True:
        at -= 1
        digits[at] = <char> (48 + value % 10)
        value //= 10
        if value == 0:
            return put_bytes(b, &digits[at], MOST_DIGITS - at)


cdef int json_i64(Buffer *b, int64_t value) except -1 nogil:
    if value >= 0:
        return json_u64(b, <uint64_t> value)
    put_char(b, c'-')
    return json_u64(b, 0 - <uint64_t> value)


cdef int put_zeros(Buffer *b, int n) except -1 nogil:
    while n > 0:
        put_char(b, c'0')
        n -= 1
    return 0


cdef int json_padded(Buffer *b, uint64_t value, int width) except -1 nogil:
    cdef char[MOST_DIGITS] digits
    cdef int i
    for i in range(width - 1, -1, -1):
        digits[i] = <char> (48 + value % 10)
        value //= 10
    return put_bytes(b, digits, width)


cdef int json_float(Buffer *b, double value) except -1:
    """A finite double: the shortest text that reads back as the same double."""
    cdef double size = -value if value < 0 else value
    cdef double scaled
    cdef uint64_t whole
    cdef int places
    if value == 0:
        return put_bytes(b, b"0.0", 3)
    if 1e-3 <= size < 1e15:
        # Few decimals, as most measured values have. m / 10**k with both exact is rounded once, so it is the double
        # that reading "m e-k" gives; and of at most 15 digits only one text reads back as a double.
        for places in range(10):
            scaled = rint(size * TENS[places])
            if scaled >= 1e15:
                break
            if scaled / TENS[places] == size:
                if value < 0:
                    put_char(b, c'-')
                whole = <uint64_t> scaled
                if places == 0:
                    json_u64(b, whole)
                    return put_bytes(b, b".0", 2)
                json_u64(b, whole // <uint64_t> TENS[places])
                put_char(b, c'.')
                return json_padded(b, whole % <uint64_t> TENS[places], places)
    return json_any_float(b, value)


cdef int json_any_float(Buffer *b, double value) except -1:
    """From the digits and the exponent that CPython finds: in full from 1e-5 on, however large; below as 1.5e-7."""
    cdef char *text = PyOS_double_to_string(value, c'r', 0, 0, NULL)
    cdef char[32] digits
    cdef int n = 0
    cdef int point = -1        # digits before the point
    cdef int exponent = 0
    cdef bint down = False
    cdef int first = 0
    cdef char *at = text
    try:
        if at[0] == c'-':
            put_char(b, c'-')
            at += 1
        while at[0] and at[0] != c'e':
            if at[0] == c'.':
                point = n
            else:
                digits[n] = at[0]
                n += 1
            at += 1
        if point < 0:
            point = n
        if at[0] == c'e':
            at += 1
            down = at[0] == c'-'
            at += at[0] == c'-' or at[0] == c'+'
            while at[0]:
                exponent = exponent * 10 + (at[0] - 48)
                at += 1
        point += -exponent if down else exponent
    finally:
        PyMem_Free(text)
    while first < n - 1 and digits[first] == c'0':
        first += 1
        point -= 1
    while n > first + 1 and digits[n - 1] == c'0':
        n -= 1
    if point > n - first:      # 1e22
        put_bytes(b, &digits[first], n - first)
        put_zeros(b, point - (n - first))
        return put_bytes(b, b".0", 2)
    if point > 0:
        put_bytes(b, &digits[first], point)
        put_char(b, c'.')
        if point == n - first:
            return put_char(b, c'0')
        return put_bytes(b, &digits[first + point], n - first - point)
    if point > -5:
        put_bytes(b, b"0.", 2)
        put_zeros(b, -point)
        return put_bytes(b, &digits[first], n - first)
    put_char(b, digits[first])
    if n > first + 1:
        put_char(b, c'.')
        put_bytes(b, &digits[first + 1], n - first - 1)
    put_bytes(b, b"e-", 2)
    return json_u64(b, <uint64_t> (1 - point))


cdef int json_point(Buffer *b, uint32_t point) except -1 nogil:
    """One character inside quotes."""
    cdef char[4] utf8
    cdef const char *short = NULL
    if point >= 32 and point != 34 and point != 92:
        if point < 0x80:
            return put_char(b, <char> point)
        if point < 0x800:
            utf8[0] = <char> (0xC0 | point >> 6)
            utf8[1] = <char> (0x80 | point & 63)
            return put_bytes(b, utf8, 2)
        if point < 0x10000:
            utf8[0] = <char> (0xE0 | point >> 12)
            utf8[1] = <char> (0x80 | point >> 6 & 63)
            utf8[2] = <char> (0x80 | point & 63)
            return put_bytes(b, utf8, 3)
        utf8[0] = <char> (0xF0 | point >> 18)
        utf8[1] = <char> (0x80 | point >> 12 & 63)
        utf8[2] = <char> (0x80 | point >> 6 & 63)
        utf8[3] = <char> (0x80 | point & 63)
        return put_bytes(b, utf8, 4)
    if point == 34:
        short = b'\\"'
    elif point == 92:
        short = b"\\\\"
    elif point == 8:
        short = b"\\b"
    elif point == 9:
        short = b"\\t"
    elif point == 10:
        short = b"\\n"
    elif point == 12:
        short = b"\\f"
    elif point == 13:
        short = b"\\r"
    if short != NULL:
        return put_bytes(b, short, 2)
    put_bytes(b, b"\\u00", 4)
    put_char(b, HEX[point >> 4])
    return put_char(b, HEX[point & 15])


cdef int json_base64(Buffer *b, const unsigned char *data, Py_ssize_t size) except -1 nogil:
    cdef Py_ssize_t i = 0
    cdef uint32_t three
    put_char(b, c'"')
    while i < size:
        three = <uint32_t> data[i] << 16
        if i + 1 < size:
            three |= <uint32_t> data[i + 1] << 8
        if i + 2 < size:
            three |= data[i + 2]
        put_char(b, BASE64[three >> 18])
        put_char(b, BASE64[three >> 12 & 63])
        put_char(b, BASE64[three >> 6 & 63] if i + 1 < size else c'=')
        put_char(b, BASE64[three & 63] if i + 2 < size else c'=')
        i += 3
    return put_char(b, c'"')


cdef int json_date(Buffer *b, int64_t day) except -1 nogil:
    """Days since 1970 as year-month-day, in the proleptic Gregorian calendar, without quotes."""
    # Counted from 1 March of year 0, so that the leap day comes last: eras of 400 years, 146,097 days each.
    cdef int64_t shifted = day + 719468
    cdef int64_t era = shifted // 146097
    cdef int64_t of_era = shifted - era * 146097
    cdef int64_t year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int64_t of_year = of_era - (365 * year + year // 4 - year // 100)
    cdef int64_t month = (5 * of_year + 2) // 153
    cdef int64_t of_month = of_year - (153 * month + 2) // 5 + 1
    year += era * 400
    month += 3
    if month > 12:
        month -= 12
        year += 1
    json_padded(b, <uint64_t> year, 4)
    put_char(b, c'-')
    json_padded(b, <uint64_t> month, 2)
    put_char(b, c'-')
    return json_padded(b, <uint64_t> of_month, 2)


cdef int json_time(Buffer *b, int64_t us) except -1 nogil:
    """Microseconds of a day as hours:minutes:seconds, without quotes."""
    json_padded(b, <uint64_t> (us // 1000000 // 3600), 2)
    put_char(b, c':')
    json_padded(b, <uint64_t> (us // 1000000 // 60 % 60), 2)
    put_char(b, c':')
    json_padded(b, <uint64_t> (us // 1000000 % 60), 2)
    if us % 1000000:
        put_char(b, c'.')
        json_padded(b, <uint64_t> (us % 1000000), 6)
    return 0

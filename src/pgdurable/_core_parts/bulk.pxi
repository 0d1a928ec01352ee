# Many starts at once: ids and COPY rows of instances that differ in their input only, the input from Python's bytes
# or straight out of arrays.

cdef enum:
    DAY_MIN = -719162      # 0001-01-01
    DAY_END = 2932897      # 10000-01-01

cdef int64_t NAT = -0x7fffffffffffffff - 1


def make_ids(int64_t ms, int64_t counter, bytes noise):
    """UUIDs of version 7 end to end, 16 bytes each, one per 8 bytes of noise, ascending.

    The first has the time `ms` and the counter's value `counter`, of 4096 in a millisecond; where they are used up the
    next millisecond begins.
    """
    cdef Py_ssize_t n = len(noise) // 8
    cdef bytes ids = PyBytes_FromStringAndSize(NULL, n * 16)
    cdef char *at = <char *> ids
    cdef const char *random = <const char *> noise
    cdef uint32_t half
    cdef Py_ssize_t i
    for i in range(n):
        half = htonl(<uint32_t> (ms >> 16))
        memcpy(at, &half, 4)
        half = htonl(<uint32_t> ((ms & 0xFFFF) << 16 | 0x7000 | counter))
        memcpy(at + 4, &half, 4)
        memcpy(at + 8, random, 8)
        at[8] = <char> (0x80 | (at[8] & 0x3F))
        at += 16
        random += 8
        counter += 1
        if counter == 4096:
            counter = 0
            ms += 1
    return ids


cdef struct Cell:
    const char *data       # the first row's
    Py_ssize_t stride
    char kind
    Py_ssize_t size
    bint swap              # not in this machine's byte order
    int64_t unit_ns


@cython.final
cdef class Table:
    """Arrays side by side; a row of it is one input. Holds on to the arrays' memory.

    Args:
        columns: (key, array, offset, kind, size, swap, unit) of each, in the order they are written. `key` is what
            stands before the value, such as ``"n":``. `offset` and `size` say which bytes of an element. `kind` is one
            of i (signed), u (unsigned), f (float), b (bool), x (bytes, written as base64), s (bytes that are UTF-8), w
            (UTF-32), d (date) and t (time), the last two as int64 counts since 1970 of `unit`, in nanoseconds.
        before, after: what stands around the values of a row.
    Raises ValueError when the arrays are not of one dimension and one length.
    """

    cdef Py_buffer *views
    cdef Cell *cells
    cdef list keys
    cdef bytes before, after
    cdef int n_views, n_columns
    cdef Py_ssize_t n_rows

    def __cinit__(self, list columns, bytes before=b"{", bytes after=b"}"):
        cdef Py_buffer *view
        cdef Cell *cell
        cdef Py_ssize_t n, stride
        self.before, self.after, self.keys = before, after, []
        self.views = <Py_buffer *> realloc(NULL, max(len(columns), 1) * sizeof(Py_buffer))
        self.cells = <Cell *> realloc(NULL, max(len(columns), 1) * sizeof(Cell))
        if self.views == NULL or self.cells == NULL:
            raise MemoryError()
        for key, array, offset, kind, size, swap, unit in columns:
            view = &self.views[self.n_views]
            PyObject_GetBuffer(array, view, PyBUF_FULL_RO)
            self.n_views += 1
            if view.ndim != 1 or view.suboffsets != NULL:
                raise ValueError(f"an array of {view.ndim} dimensions")
            # Both may be absent: ctypes leaves out the strides, whatever was asked for.
            n = view.shape[0] if view.shape != NULL else view.len // max(view.itemsize, 1)
            stride = view.strides[0] if view.strides != NULL else view.itemsize
            if self.n_views > 1 and n != self.n_rows:
                raise ValueError(f"arrays of {self.n_rows} and of {n} elements")
            self.n_rows = n
            if offset < 0 or size < 0 or offset + size > view.itemsize or not fits(ord(kind), size):
                raise ValueError(f"{size} bytes at {offset} of an element's {view.itemsize} as {kind}")
            cell = &self.cells[self.n_columns]
            cell.data = <const char *> view.buf + <Py_ssize_t> offset
            cell.stride = stride
            cell.kind = <char> ord(kind)
            cell.size = size
            cell.swap = swap
            cell.unit_ns = unit
            self.keys.append(<bytes?> key)
            self.n_columns += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.n_views):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.cells)

    def __len__(self):
        return self.n_rows

    def row(self, Py_ssize_t row):
        """The JSON of one row."""
        cdef Buffer text = Buffer(NULL, 0, 0)
        if not 0 <= row < self.n_rows:
            raise IndexError(row)
        try:
            self.put_row(&text, row)
            return PyBytes_FromStringAndSize(text.data, text.size)
        finally:
            buffer_free(&text)

    def check(self, Py_ssize_t first, Py_ssize_t last, Py_ssize_t limit):
        """Raises for the rows from `first` to before `last` what `StartRows.add_table` would raise."""
        cdef Buffer text = Buffer(NULL, 0, 0)
        cdef Py_ssize_t most = len(self.before) + len(self.after)
        cdef Py_ssize_t row
        cdef Cell *cell
        cdef int i
        if not 0 <= first <= last <= self.n_rows:
            raise IndexError(first, last)
        for i in range(self.n_columns):
            # No number or time is longer than 330 bytes, no character's escape than 6.
            most += len(self.keys[i]) + 1 + max(330, 6 * self.cells[i].size)
        try:
            if most > limit:
                for row in range(first, last):
                    text.size = 0
                    self.put_row(&text, row)
                    if text.size > limit:
                        raise OverflowError(text.size, row)
                return
            for i in range(self.n_columns):
                cell = &self.cells[i]
                if cell.kind == c'i' or cell.kind == c'u' or cell.kind == c'b' or cell.kind == c'x':
                    continue
                for row in range(first, last):
                    if cell.kind == c'f':
                        if isfinite(float_of(bits_of(cell.data + row * cell.stride, cell.size, cell.swap), cell.size)):
                            continue
                    text.size = 0
                    problem = put_value(&text, cell, cell.data + row * cell.stride)
                    if problem is not None:
                        raise BadValue(problem, i, row)
        finally:
            buffer_free(&text)

    cdef int put_row(self, Buffer *b, Py_ssize_t row) except -1:
        """Raises BadValue where JSON has no such value."""
        cdef int i
        cdef bytes key
        put_bytes(b, <const char *> self.before, len(self.before))
        for i in range(self.n_columns):
            if i:
                put_char(b, c',')
            key = <bytes> self.keys[i]
            put_bytes(b, <const char *> key, len(key))
            problem = put_value(b, &self.cells[i], self.cells[i].data + row * self.cells[i].stride)
            if problem is not None:
                raise BadValue(problem, i, row)
        return put_bytes(b, <const char *> self.after, len(self.after))


class BadValue(ValueError):
    """Something that JSON cannot hold. Its args: what was found, the column's place in the table, the row."""


cdef bint fits(int kind, Py_ssize_t size):
    if kind == c'i' or kind == c'u':
        return size == 1 or size == 2 or size == 4 or size == 8
    if kind == c'f':
        return size == 2 or size == 4 or size == 8
    if kind == c'b':
        return size == 1
    if kind == c'd' or kind == c't':
        return size == 8
    if kind == c'w':
        return size % 4 == 0
    return kind == c's' or kind == c'x'


cdef inline uint64_t bits_of(const char *data, Py_ssize_t size, bint swap) noexcept nogil:
    cdef uint8_t one
    cdef uint16_t two
    cdef uint32_t four
    cdef uint64_t eight
    cdef uint64_t turned = 0
    cdef Py_ssize_t i
    if swap:
        for i in range(size):
            (<char *> &turned)[i] = data[size - 1 - i]
        data = <const char *> &turned
    if size == 1:
        memcpy(&one, data, 1)
        return one
    if size == 2:
        memcpy(&two, data, 2)
        return two
    if size == 4:
        memcpy(&four, data, 4)
        return four
    memcpy(&eight, data, 8)
    return eight


cdef inline double float_of(uint64_t bits, Py_ssize_t size) noexcept nogil:
    cdef double wide
    cdef float narrow
    cdef uint32_t four
    cdef int exponent
    if size == 8:
        memcpy(&wide, &bits, 8)
        return wide
    if size == 2:
        # Half precision: 1 + 5 + 10 bits, widened to single's 1 + 8 + 23; its subnormals are counts of 2**-24.
        exponent = <int> (bits >> 10 & 31)
        if exponent == 0:
            wide = <double> (bits & 0x3FF) * 5.9604644775390625e-08
            return -wide if bits & 0x8000 else wide
        four = <uint32_t> ((bits & 0x8000) << 16 | (bits & 0x3FF) << 13)
        four |= <uint32_t> 0x7F800000 if exponent == 31 else <uint32_t> (exponent + 112) << 23
    else:
        four = <uint32_t> bits
    memcpy(&narrow, &four, 4)
    return narrow


cdef object put_value(Buffer *b, Cell *cell, const char *data):
    """None, or what JSON cannot hold."""
    cdef char kind = cell.kind
    cdef uint64_t bits
    cdef double number
    cdef Py_ssize_t size = cell.size
    if kind == c'x' or kind == c's' or kind == c'w':
        return put_string(b, cell, data)
    bits = bits_of(data, size, cell.swap)
    if kind == c'u':
        json_u64(b, bits)
    elif kind == c'i':
        json_i64(b, <int8_t> bits if size == 1 else <int16_t> bits if size == 2
                 else <int32_t> bits if size == 4 else <int64_t> bits)
    elif kind == c'b':
        if bits:
            put_bytes(b, b"true", 4)
        else:
            put_bytes(b, b"false", 5)
    elif kind == c'f':
        number = float_of(bits, size)
        if not isfinite(number):
            return "NaN" if number != number else "infinity" if number > 0 else "-infinity"
        json_float(b, number)
    else:
        return put_moment(b, cell, <int64_t> bits)
    return None


cdef object put_moment(Buffer *b, Cell *cell, int64_t count):
    cdef int64_t per_day, day, left
    cdef int64_t day_ns = 86400000000000
    if count == NAT:
        return "NaT"
    per_day = day_ns // cell.unit_ns
    # Cython's // and % of C integers are Python's: rounded down.
    day = count // per_day
    left = (count % per_day) * cell.unit_ns
    if not DAY_MIN <= day < DAY_END:
        return "a time outside the years 1 to 9999"
    if left % 1000:
        return "a time with a fraction of a microsecond"
    put_char(b, c'"')
    json_date(b, day)
    if cell.kind == c't':
        put_char(b, c'T')
        json_time(b, left // 1000)
    put_char(b, c'"')
    return None


cdef object put_string(Buffer *b, Cell *cell, const char *data):
    # NULs at the end are the array's padding, as for numpy.
    cdef Py_ssize_t size = cell.size
    cdef Py_ssize_t i
    cdef uint32_t point
    cdef object text
    if cell.kind == c'w':
        while size and bits_of(data + size - 4, 4, False) == 0:
            size -= 4
        put_char(b, c'"')
        for i in range(0, size, 4):
            point = <uint32_t> bits_of(data + i, 4, cell.swap)
            problem = refused_point(point, i // 4)
            if problem is not None:
                return problem
            json_point(b, point)
        put_char(b, c'"')
        return None
    while size and data[size - 1] == 0:
        size -= 1
    if cell.kind == c'x':
        json_base64(b, <const unsigned char *> data, size)
        return None
    put_char(b, c'"')
    for i in range(size):
        if data[i] & 0x80:
            return put_utf8(b, data, size, i)
        if data[i] == 0:
            return refused_point(0, i)
        json_point(b, <uint32_t> data[i])
    put_char(b, c'"')
    return None


cdef object put_utf8(Buffer *b, const char *data, Py_ssize_t size, Py_ssize_t first):
    """The rest of a text that is not all ASCII: here CPython checks it."""
    try:
        text = data[first:size].decode("utf-8")
    except UnicodeDecodeError as error:
        place = first + <Py_ssize_t> error.start
        return f"bytes that are no UTF-8 (\\x{<unsigned char> data[place]:02x}, index {place})"
    for point in text:
        if point == "\0":
            return "a NUL character"
        json_point(b, <uint32_t> ord(point))
    put_char(b, c'"')
    return None


cdef inline object refused_point(uint32_t point, Py_ssize_t index):
    if point == 0:
        return f"a NUL character (index {index})"
    if 0xD800 <= point < 0xE000:
        return f"a lone surrogate (\\u{point:04x}, index {index})"
    if point > 0x10FFFF:
        return f"no character ({point:#x}, index {index})"
    return None


@cython.final
cdef class StartRows:
    """New instances of one workflow as rows of binary COPY: pending, for whoever has room.

    Args:
        limit: most bytes of an input.
    """

    cdef Buffer rows
    cdef Buffer middle     # the fields between id and input
    cdef Py_ssize_t count
    cdef Py_ssize_t limit

    def __cinit__(self, str workflow, str version, str queue, Py_ssize_t limit):
        field_text(&self.middle, workflow)
        field_text(&self.middle, version)
        field_text(&self.middle, "pending")
        field_text(&self.middle, queue)
        field_null(&self.middle)
        self.limit = limit

    def __dealloc__(self):
        buffer_free(&self.rows)
        buffer_free(&self.middle)

    def __len__(self):
        return self.count

    @property
    def nbytes(self):
        """Encoded bytes since the last `take`."""
        return self.rows.size

    def add(self, bytes id, bytes input):
        """Adds a row with this id, 16 bytes, and this JSON, checked by the caller."""
        cdef Py_ssize_t start = self.rows.size
        if len(id) != 16:
            raise ValueError(f"an instance id has 16 bytes, found {len(id)}")
        try:
            self.open_row(<const char *> id)
            put_bytes(&self.rows, <const char *> input, len(input))
            self.close_row(start)
        except BaseException:
            self.rows.size = start
            raise

    def add_table(self, Table table, Py_ssize_t first, Py_ssize_t last, bytes ids):
        """Adds a table's rows from `first` to before `last`, with these ids end to end.

        Raises BadValue; or OverflowError, its args the size and the row, for an input over the limit. What came before
        that row has been added.
        """
        cdef Py_ssize_t row, start, at, size
        if not 0 <= first <= last <= table.n_rows or len(ids) != (last - first) * 16:
            raise ValueError(f"rows {first} to {last} of {table.n_rows} with {len(ids)} bytes of ids")
        for row in range(first, last):
            start = self.rows.size
            try:
                at = self.open_row(<const char *> ids + (row - first) * 16)
                table.put_row(&self.rows, row)
                size = self.rows.size - at
                if size > self.limit:
                    raise OverflowError(size, row)
                self.close_row(start)
            except BaseException:
                self.rows.size = start
                raise

    def take(self):
        """The rows added since the last call."""
        cdef bytes rows = PyBytes_FromStringAndSize(self.rows.data, self.rows.size)
        self.rows.size = 0
        self.count = 0
        return rows

    cdef Py_ssize_t open_row(self, const char *id) except -1:
        """Everything before the JSON. Returns where the JSON begins."""
        cdef Buffer *b = &self.rows
        put_i16(b, INSTANCE_COLUMNS)
        put_i32(b, 16)
        put_bytes(b, id, 16)
        put_bytes(b, self.middle.data, self.middle.size)
        put_i32(b, 0)
        put_char(b, 1)         # jsonb's version
        return b.size

    cdef int close_row(self, Py_ssize_t start) except -1:
        """Fills in the length of the jsonb field."""
        cdef Py_ssize_t at = start + 2 + 20 + self.middle.size
        cdef Py_ssize_t size = self.rows.size - at - 4
        cdef uint32_t net = htonl(<uint32_t> size)
        if size > 0x3FFFFFFF:
            raise OverflowError(f"an input of {size} bytes")
        memcpy(self.rows.data + at, &net, 4)
        self.count += 1
        return 0

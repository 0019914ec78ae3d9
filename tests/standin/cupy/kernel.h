// What a kernel's C++ sees in place of CUDA: raw arguments that check every access, and the functions of device code.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#define __device__
#define __host__
#define __forceinline__ inline

using std::abs; using std::ceil; using std::cos; using std::exp; using std::floor; using std::fma; using std::isfinite;
using std::isinf; using std::isnan; using std::log; using std::log1p; using std::pow; using std::ptrdiff_t;
using std::round; using std::sin; using std::size_t; using std::sqrt; using std::tanh;
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
template <class A, class B> typename std::common_type<A, B>::type min(A a, B b) { return b < a ? b : a; }
template <class A, class B> typename std::common_type<A, B>::type max(A a, B b) { return a < b ? b : a; }

struct Argument {
    char *data;
    ptrdiff_t ndim, size;
    ptrdiff_t packed;                       // the bytes of an element, if one lies behind the other; else 0
    const ptrdiff_t *shape, *strides;       // strides in bytes; 0 where an argument is repeated

    // The address of an element by its place in C order.
    char *address(ptrdiff_t place) const {
        if (packed) return data + place * packed;
        char *p = data;
        for (ptrdiff_t d = ndim - 1; d >= 0; --d) {
            p += place % shape[d] * strides[d];
            place /= shape[d];
        }
        return p;
    }
};

// What went wrong, thrown by an access and handed to Python.
struct Fault { ptrdiff_t kind, argument, index, element, other; };
enum { OUT_OF_BOUNDS = 1, RACE = 2 };

struct Indexer {
    ptrdiff_t count;
    ptrdiff_t size() const { return count; }
};

enum { NOBODY = -1, SEVERAL = -2 };

template <class T> class Raw;

// An element of a raw output: knows whether it is read or written.
template <class T> struct Element {
    Raw<T> &raw;
    ptrdiff_t index;
    operator T() const { return raw.read(index); }
    T operator=(T value) { return raw.write(index, value); }
    T operator=(const Element &other) { return *this = T(other); }
    T operator+=(T value) { return *this = T(*this) + value; }
    T operator-=(T value) { return *this = T(*this) - value; }
    T operator*=(T value) { return *this = T(*this) * value; }
    T operator/=(T value) { return *this = T(*this) / value; }
    struct Address { Raw<T> &raw; ptrdiff_t index; };
    Address operator&() { return {raw, index}; }
};

// A raw output. Remembers which element of the kernel has read, written or added to each place.
template <class T> class Raw {
    const Argument &argument;
    const ptrdiff_t number, &element;
    std::vector<int32_t> readers, writers, adders;

    void check(ptrdiff_t index) const {
        if (index < 0 || index >= argument.size) throw Fault{OUT_OF_BOUNDS, number, index, element, 0};
    }
    void alone(const std::vector<int32_t> &others, ptrdiff_t index) const {
        if (others[index] != NOBODY && others[index] != element)
            throw Fault{RACE, number, index, element, others[index]};
    }
    void note(std::vector<int32_t> &mine, ptrdiff_t index) {
        mine[index] = mine[index] == NOBODY || mine[index] == element ? int32_t(element) : int32_t(SEVERAL);
    }
    T &at(ptrdiff_t index) const { return *(T *)argument.address(index); }

public:
    Raw(const Argument &argument, ptrdiff_t number, const ptrdiff_t &element)
        : argument(argument), number(number), element(element), readers(argument.size, NOBODY),
          writers(argument.size, NOBODY), adders(argument.size, NOBODY) {}

    ptrdiff_t size() const { return argument.size; }
    const ptrdiff_t *shape() const { return argument.shape; }
    Element<T> operator[](ptrdiff_t index) { return {*this, index}; }

    T read(ptrdiff_t index) {
        check(index); alone(writers, index); alone(adders, index); note(readers, index);
        return at(index);
    }
    T write(ptrdiff_t index, T value) {
        check(index); alone(readers, index); alone(writers, index); alone(adders, index); note(writers, index);
        return at(index) = value;
    }
    T add(ptrdiff_t index, T value) {
        check(index); alone(readers, index); alone(writers, index); note(adders, index);
        T before = at(index);
        at(index) = before + value;
        return before;
    }
};

template <class A, class V> auto atomicAdd(A address, V value) -> decltype(address.raw.add(address.index, value)) {
    return address.raw.add(address.index, value);
}

// A raw input, which is const.
template <class T> class ConstRaw {
    const Argument &argument;
    const ptrdiff_t number, &element;

public:
    ConstRaw(const Argument &argument, ptrdiff_t number, const ptrdiff_t &element)
        : argument(argument), number(number), element(element) {}
    ptrdiff_t size() const { return argument.size; }
    const ptrdiff_t *shape() const { return argument.shape; }
    T operator[](ptrdiff_t index) const {
        if (index < 0 || index >= argument.size) throw Fault{OUT_OF_BOUNDS, number, index, element, 0};
        return *(const T *)argument.address(index);
    }
};

// Adds up the numbers that it is given on standard input.

#include <iostream>
#include <iterator>
#include <numeric>
#include <vector>

int main() {
    const std::vector<long long> numbers{std::istream_iterator<long long>(std::cin), {}};
    std::cout << numbers.size() << " numbers, sum " << std::accumulate(numbers.begin(), numbers.end(), 0LL) << "\n";
}

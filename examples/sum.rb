# Adds up the numbers that it is given on standard input.

numbers = $stdin.read.split.map(&:to_i)
puts "#{numbers.length} numbers, sum #{numbers.sum}"

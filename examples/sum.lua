-- Adds up the numbers that it is given on standard input.

local count, sum = 0, 0
for word in io.read("a"):gmatch("%S+") do
  count = count + 1
  sum = sum + math.tointeger(tonumber(word))
end
print(string.format("%d numbers, sum %d", count, sum))

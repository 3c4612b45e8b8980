# Adds up the numbers that it is given on standard input.

count=0 sum=0
while read -r -a words || [ "${#words[@]}" -gt 0 ]; do
  for word in "${words[@]}"; do
    count=$((count + 1)) sum=$((sum + word))
  done
done
echo "$count numbers, sum $sum"

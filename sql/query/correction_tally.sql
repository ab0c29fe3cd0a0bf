-- How many corrections there are of each outcome, with mean gains before and after.
-- Reads reason_correction. No parameters.
select correction, count(*) as n, avg(gain_before) as gain_before, avg(gain_after) as gain_after
from reason_correction
group by correction
order by correction

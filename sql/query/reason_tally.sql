-- How many reasons there are of each kind and refusal; null stands for accepted ones.
-- Reads reason_score. No parameters.
select kind, refusal, count(*) as n
from reason_score
group by kind, refusal
order by kind, refusal nulls first
